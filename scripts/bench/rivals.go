package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program returns where a rival is, "" when it is not installed.
func program(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	if p := "/usr/sbin/" + name; exec.Command("test", "-x", p).Run() == nil {
		return p
	}
	return ""
}

// nginx proxies and limits; it cannot verify a JWT.
func nginx(w *world, l limits) (*gateway, error) {
	dir, err := os.MkdirTemp(w.dir, "nginx-")
	if err != nil {
		return nil, err
	}
	plain, secure := freePort(), freePort()
	conf := fmt.Sprintf(`daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 32768; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000000;
  limit_req_zone $binary_remote_addr zone=all:10m rate=1000000r/s;
  upstream backend { server %[2]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[3]d backlog=4096;
    listen 127.0.0.1:%[4]d ssl backlog=4096;
    ssl_certificate %[5]s; ssl_certificate_key %[5]s;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id;
    location /p/ { proxy_pass http://backend; }
    location /r/ { limit_req zone=all burst=1000000 nodelay; proxy_pass http://backend; }
  }
}
`, dir, w.upstream, plain, secure, w.pem)
	name := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	p, err := startProcess("nginx", l, nil, program("nginx"), "-c", name, "-p", dir)
	if err != nil {
		return nil, err
	}
	g := &gateway{process: p, can: "P R", plain: map[string]int{"P": plain, "R": plain}, secure: map[string]int{"P": secure, "R": secure}}
	g.start, err = p.waitFor(fmt.Sprintf("127.0.0.1:%d", plain), w.request("P", ""), readyTime)
	return g, err
}

// haproxy does all four, each on a port of its own.
func haproxy(w *world, l limits) (*gateway, error) {
	dir, err := os.MkdirTemp(w.dir, "haproxy-")
	if err != nil {
		return nil, err
	}
	const limit = `  stick-table type ip size 100k expire 2m store http_req_rate(60s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000000 }
`
	verify := `  http-request set-var(txn.token) http_auth_bearer
  http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
  http-request set-var(txn.iss) var(txn.token),jwt_payload_query('$.iss')
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless { var(txn.alg) -m str RS256 }
  http-request deny deny_status 401 unless { var(txn.iss) -m str ` + issuerName + ` }
  http-request deny deny_status 401 unless { var(txn.token),jwt_verify(txn.alg,"` + w.issuerPEM + `") -m int 1 }
  http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int lt 0 }
`
	g := &gateway{can: "P R J JR", plain: map[string]int{}, secure: map[string]int{}}
	var conf strings.Builder
	fmt.Fprintf(&conf, `global
  nbthread 1
  maxconn 9000
  stats socket %s/stats
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  option forwardfor
  http-reuse always
  unique-id-format %%{+X}o\ %%ci%%cp%%Ts%%rt
  unique-id-header X-Request-Id
`, dir)
	for _, s := range []string{"P", "R", "J", "JR"} {
		g.plain[s], g.secure[s] = freePort(), freePort()
		fmt.Fprintf(&conf, "frontend %s\n  bind 127.0.0.1:%d backlog 4096\n  bind 127.0.0.1:%d ssl crt %s backlog 4096\n", s, g.plain[s], g.secure[s], w.pem)
		if strings.Contains(s, "R") {
			conf.WriteString(limit)
		}
		if strings.Contains(s, "J") {
			conf.WriteString(verify)
		}
		conf.WriteString("  default_backend all\n")
	}
	fmt.Fprintf(&conf, "backend all\n  server one %s\n", w.upstream)
	name := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(name, []byte(conf.String()), 0o600); err != nil {
		return nil, err
	}
	if g.process, err = startProcess("haproxy", l, nil, program("haproxy"), "-db", "-f", name); err != nil {
		return nil, err
	}
	g.start, err = g.process.waitFor(fmt.Sprintf("127.0.0.1:%d", g.plain["JR"]), w.request("JR", ""), readyTime)
	return g, err
}
