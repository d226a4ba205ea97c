package files

import (
	"fmt"
	"hash/maphash"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchConfig is a directory of n services × 10 upstreams, so many to a file, and what its files
// say.
func benchConfig(b *testing.B, n, perFile int) (config Config, texts []string) {
	b.Helper()
	config = cacheConfig(b)
	service := func(i int) string { return fmt.Sprintf("web-%d", i%n) }
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `services { name = %q address = "10.%d.%d.%d" port = 8080 connect { sidecar_service { proxy { `, service(i), i>>16, i>>8&255, i&255)
		for u := range 10 {
			fmt.Fprintf(&text, "upstreams { destination_name = %q local_bind_port = %d } ", service(i+u+1), 9000+u)
		}
		text.WriteString("} } } }\n")
		if i%perFile == perFile-1 {
			texts = append(texts, text.String())
			text.Reset()
		}
	}
	for i, text := range texts {
		put(b, config, fmt.Sprintf("%d.hcl", i), text)
	}
	text.WriteString("config_entries {")
	for i := range n {
		fmt.Fprintf(&text, "bootstrap { Kind = \"service-intentions\" Name = %q Sources = [{ Name = %q Action = \"allow\" }] }\n", service(i), service(i+1))
	}
	put(b, config, "intentions.hcl", text.String()+"}")
	return config, texts
}

// cpu is the time that the process has used: the machine has other work.
func cpu(b testing.TB) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// each reports what f costs, but not what happens before it.
func each(b *testing.B, before func(i int), f func()) {
	b.Helper()
	b.ReportAllocs()
	var used time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		before(i)
		start := cpu(b)
		b.StartTimer()
		f()
		used += cpu(b) - start
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// BenchmarkRead takes a directory in which one definition has changed from the notification to the
// contents that are published, and its record on the disk; the rows called bytes are what it costs to list, read and hash all
// files.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct{ services, perFile int }{{1000, 100}, {10_000, 100}, {10_000, 1}} {
		config, texts := benchConfig(b, c.services, c.perFile)
		config.RecordFile = filepath.Join(b.TempDir(), "record")
		cache, ledger, recorder := newCache(config), newLedger(config, nil), newRecorder(&config)
		read := func() {
			files := readAgain(b, cache)
			if _, err := scan(config.Dir); err != nil {
				b.Fatal(err)
			}
			ledger.take(files, time.Now(), func(o outcome) {
				if len(o.problems) > 0 {
					b.Fatal(o.problems)
				}
				ledger.published = recorder.offer(o.contents, ledger.record(), time.Now()).Intentions
			})
			if err := recorder.end(); err != nil {
				b.Fatal(err)
			}
		}
		read()
		time.Sleep(granule + time.Second) // until the files are old enough not to be read again
		read()
		name := fmt.Sprintf("services=%d/files=%d", c.services, c.services/c.perFile)
		b.Run(name, func(b *testing.B) {
			each(b, func(i int) {
				f := i % len(texts)
				put(b, config, fmt.Sprintf("%d.hcl", f), strings.Replace(texts[f], "port = 8080", fmt.Sprintf("port = %d", 10_000+i%10_000), 1))
			}, read)
		})
		b.Run(name+"/bytes", func(b *testing.B) {
			each(b, func(int) {}, func() {
				list, err := scan(config.Dir)
				if err != nil {
					b.Fatal(err)
				}
				for _, l := range list {
					if cache.buffer, err = readFile(filepath.Join(config.Dir, l.name), l, cache.buffer); err != nil {
						b.Fatal(err)
					}
					maphash.Bytes(cache.seed, cache.buffer)
				}
			})
		})
	}
}
