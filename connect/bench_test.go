package connect

import (
	"testing"

	"github.com/sallyport/sallyport/connect/internal/apitest"
)

// BenchmarkDial is a dial with its question to the catalog, both sides of the handshake, the judgement and a ping.
func BenchmarkDial(b *testing.B) {
	a := apitest.New(b)
	web, api := pair(b, a, Options{})
	_ = api
	for b.Loop() {
		if err := reach(b, web, "api"); err != nil {
			b.Fatal(err)
		}
	}
}
