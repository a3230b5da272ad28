package main

import (
	"context"
	"math/rand/v2"
	"net/url"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/mqttsynctest"
	"tidegate/sync/mqttsync/pipe"
	"tidegate/sync/report"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// control is what a simple program does: it deletes a batch when the broker has acknowledged it,
// or when the client library says so.
func control(ctx context.Context, o options, d *mqttsynctest.Device, u *url.URL, f *mqttsynctest.Fleet) {
	s := report.Sealer{Domain: f.Domain, Key: mqttsynctest.Key("device-1")}
	publish := ours(ctx, d, u)
	if o.delete == "token" {
		publish = defaults(d, u)
	}
	topic := mqttsynctest.Name.Device(d.ID, message.BatchPart)
	for ctx.Err() == nil {
		all, err := d.Queue.Read(events.Cursor{Class: batch.Detail}, 1)
		if err != nil || len(all) == 0 {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if b, err := s.Batch(&all[0], time.Now()); err == nil && publish(topic, b) {
			_ = d.Queue.Release(events.After(&all[0]))
		}
	}
}

// ours publishes over a pipe, whose word that the broker has acknowledged is true.
func ours(ctx context.Context, d *mqttsynctest.Device, u *url.URL) func(string, []byte) bool {
	var p *pipe.Pipe
	return func(topic string, b []byte) bool {
		if p == nil || p.Err() != nil {
			var err error
			if p, err = pipe.Dial(ctx, pipe.Options{URL: u, ClientID: d.ID.String(), KeepAlive: time.Minute}); err != nil {
				time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
				return false
			}
		}
		return p.Send(ctx, topic, b) == nil
	}
}

// defaults publishes as the client library does with nothing set but the broker and a name: it
// connects again by itself, and its token says when a message is through.
func defaults(d *mqttsynctest.Device, u *url.URL) func(string, []byte) bool {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(u.String()).SetClientID(d.ID.String()))
	for c.Connect().WaitTimeout(time.Second) && !c.IsConnected() {
		time.Sleep(50 * time.Millisecond)
	}
	return func(topic string, b []byte) bool {
		t := c.Publish(topic, 1, false, b)
		return t.WaitTimeout(5*time.Second) && t.Error() == nil
	}
}
