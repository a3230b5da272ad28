// Package config reads the configuration of a device: one strict TOML file, then the
// environment, then flags; the later wins. It says nothing about APIs: those come only
// by bundle.
//
// A [Config] that [Load] returned is whole and within its ranges. Every fault of all
// sources is reported at once, with file and line or the name of the variable.
package config

import (
	"net/netip"
	"tidegate/policy"
	"time"
)

// Config is everything a device can be told. The tags are the keys of the file; the
// shipped reference file explains each.
type Config struct {
	Data string `toml:"data"` // folder of everything durable

	Listen struct {
		HTTP           string   `toml:"http"`  // host:port, "" for none
		HTTPS          string   `toml:"https"` // host:port, "" for none
		IdleTimeout    Duration `toml:"idle_timeout"`
		TrustedProxies []string `toml:"trusted_proxies"`
		H2C            bool     `toml:"h2c"`
	} `toml:"listen"`

	TLS struct {
		CertFile   string `toml:"cert_file"`
		KeyFile    string `toml:"key_file"`
		ClientAuth string `toml:"client_auth"` // none, optional, require
	} `toml:"tls"`

	Admin struct {
		Listen    string   `toml:"listen"`
		Socket    string   `toml:"socket"`
		Hosts     []string `toml:"hosts"`
		CertFile  string   `toml:"cert_file"`
		KeyFile   string   `toml:"key_file"`
		SocketGID int64    `toml:"socket_gid"`
	} `toml:"admin"`

	Limits struct {
		HeaderBytes    Size     `toml:"header_bytes"`
		URIBytes       Size     `toml:"uri_bytes"`
		BodyBytes      Size     `toml:"body_bytes"`
		HeaderTimeout  Duration `toml:"header_timeout"`
		BodyStall      Duration `toml:"body_stall"`
		WriteStall     Duration `toml:"write_stall"`
		Connections    int64    `toml:"connections"`
		ValidateBytes  Size     `toml:"validate_bytes"`
		CompressMin    Size     `toml:"compress_min"`
		RequestsFlight int64    `toml:"requests_in_flight"`
	} `toml:"limits"`

	Memory struct {
		Limit Size `toml:"limit"`
	} `toml:"memory"`

	Upstream struct {
		MaxIdle   int64 `toml:"max_idle"`
		MaxActive int64 `toml:"max_active"`
		MaxWait   int64 `toml:"max_wait"`
	} `toml:"upstream"`

	Endpoints map[string]Endpoint `toml:"endpoints"`

	Cache struct {
		Tokens    int64 `toml:"tokens"`
		Responses Size  `toml:"responses"`
	} `toml:"cache"`

	Throttle struct {
		WithoutStore string   `toml:"without_store"` // closed, open
		Keys         int64    `toml:"keys"`
		FlushEvery   Duration `toml:"flush_every"`
	} `toml:"throttle"`

	Events struct {
		MaxBytes      Size     `toml:"max_bytes"`
		Interval      Duration `toml:"interval"`
		Detail        string   `toml:"detail"`         // all, errors, none
		ClientAddress string   `toml:"client_address"` // full, prefix, none
		UserAgent     bool     `toml:"user_agent"`
		RequestID     bool     `toml:"request_id"`
	} `toml:"events"`

	Bundles struct {
		Quota    Size     `toml:"quota"`
		Product  string   `toml:"product"`
		Channel  string   `toml:"channel"`
		Hardware []string `toml:"hardware"`
	} `toml:"bundles"`

	Clock struct {
		Trust string `toml:"trust"` // proof, system
	} `toml:"clock"`

	Log struct {
		Level  string  `toml:"level"`  // debug, info, warn, error
		Format string  `toml:"format"` // auto, text, json
		Access string  `toml:"access"` // off, combined, json
		Memory Size    `toml:"access_memory"`
		PerDay Size    `toml:"access_per_day"`
		Sample float64 `toml:"sample"`
	} `toml:"log"`

	MQTT MQTT `toml:"mqtt"`
	USB  USB  `toml:"usb"`

	// Warnings are what Load noticed and passed over: unknown variables of the environment.
	Warnings []string `toml:"-"`

	trusted []policy.Range
}

// An Endpoint overrides, on this device, what a bundle says of one group of backends.
type Endpoint struct {
	URL      Words  `toml:"url"` // one, or several separated by spaces
	Username string `toml:"username"`
	Password string `toml:"password"`
}

// MQTT is the link to the fleet.
type MQTT struct {
	Brokers      []string `toml:"brokers"` // in order of preference; none: no link
	Fleet        string   `toml:"fleet"`
	Username     string   `toml:"username"`
	Password     string   `toml:"password"`
	CAFile       string   `toml:"ca_file"`
	CertFile     string   `toml:"cert_file"`
	KeyFile      string   `toml:"key_file"`
	ServerName   string   `toml:"server_name"`
	Proxy        string   `toml:"proxy"`
	HTTPSHosts   []string `toml:"https_hosts"`
	Mode         string   `toml:"mode"` // always, window, demand
	Windows      []string `toml:"windows"`
	WindowSpread Duration `toml:"window_spread"`
	Metered      bool     `toml:"metered"`
	BytesUp      Size     `toml:"bytes_per_second_up"`
	BytesDown    Size     `toml:"bytes_per_second_down"`
	BytesPerDay  Size     `toml:"bytes_per_day"`
	KeepAlive    Duration `toml:"keep_alive"`
	NewestFirst  bool     `toml:"newest_first"`
	PieceBytes   Size     `toml:"piece_bytes"`
	FirstAfter   Duration `toml:"first_after"`
	RetryCap     Duration `toml:"retry_cap"`
	StatusEvery  Duration `toml:"status_every"`
	UnsignedAcks bool     `toml:"unsigned_acks"`
}

// USB says where sticks appear.
type USB struct {
	Mounts  []string `toml:"mounts"`  // folders that are looked into when something is mounted there
	Release string   `toml:"release"` // ack, written
	Led     string   `toml:"led"`
}

// Default returns the configuration of a device that is told nothing.
func Default() *Config {
	c := &Config{Data: "/var/lib/tidegate"}
	c.Listen.HTTP = "0.0.0.0:9090"
	c.Listen.HTTPS = "0.0.0.0:9095"
	c.Listen.IdleTimeout = Duration(120 * time.Second)
	c.TLS.ClientAuth = "optional"
	c.Admin.Listen = "127.0.0.1:9099"
	c.Admin.SocketGID = -1
	c.Limits.HeaderBytes = 16 << 10
	c.Limits.URIBytes = 8 << 10
	c.Limits.BodyBytes = 0
	c.Limits.HeaderTimeout = Duration(5 * time.Second)
	c.Limits.BodyStall = Duration(30 * time.Second)
	c.Limits.WriteStall = Duration(30 * time.Second)
	c.Limits.Connections = 10_000
	c.Limits.ValidateBytes = 1 << 20
	c.Limits.CompressMin = 1 << 10
	c.Limits.RequestsFlight = 4096
	c.Upstream.MaxIdle = 64
	c.Upstream.MaxActive = 1024
	c.Upstream.MaxWait = 1024
	c.Cache.Tokens = 10_000
	c.Cache.Responses = 8 << 20
	c.Throttle.WithoutStore = "closed"
	c.Throttle.Keys = 200_000
	c.Throttle.FlushEvery = Duration(30 * time.Second)
	c.Events.MaxBytes = 64 << 20
	c.Events.Interval = Duration(30 * time.Second)
	c.Events.Detail = "all"
	c.Events.ClientAddress = "prefix"
	c.Bundles.Quota = 256 << 20
	c.Clock.Trust = "proof"
	c.Log.Level = "info"
	c.Log.Format = "auto"
	c.Log.Access = "off"
	c.Log.Sample = 1
	c.MQTT.Fleet = "fleet"
	c.MQTT.Mode = "always"
	c.MQTT.KeepAlive = Duration(300 * time.Second)
	c.MQTT.PieceBytes = 16 << 10
	c.MQTT.FirstAfter = Duration(60 * time.Second)
	c.MQTT.RetryCap = Duration(15 * time.Minute)
	c.MQTT.StatusEvery = Duration(6 * time.Hour)
	c.USB.Release = "ack"
	return c
}

// TrustedProxies returns the ranges of listen.trusted_proxies.
func (c *Config) TrustedProxies() []policy.Range { return c.trusted }

// Socket returns the path of the unix socket for commands.
func (c *Config) Socket() string {
	if c.Admin.Socket != "" {
		return c.Admin.Socket
	}
	return c.Data + "/admin.sock"
}

// hostPort reports whether s is a listen address.
func hostPort(s string) bool {
	if s == "" {
		return true
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return true
	}
	return validHostPort(s)
}
