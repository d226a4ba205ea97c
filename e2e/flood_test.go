//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// floodVariable, if set, makes the test binary one that floods a control plane: a process of another user.
const floodVariable = "E2E_FLOOD"

// flood says what is flooded, and with what.
type flood struct {
	Kind    string
	Network string // unix, or tcp, over TLS but for the metrics
	Addr    string
	Token   string   // empty: a bad one
	Tokens  []string // of applications, for the HTTP API
	Method  string   // of gRPC; empty: Envoys'
	Proxy   string
	Time    time.Duration
}

// flooder floods until Time is over. Errors are what it is after.
func flooder(task string) error {
	var f flood
	if err := json.Unmarshal([]byte(task), &f); err != nil {
		return err
	}
	if f.Token == "" {
		f.Token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ3ZWItc2lkZWNhci1wcm94eSJ9." + strings.Repeat("A", 86)
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.Time)
	defer cancel()
	kinds := map[string]struct {
		n   int // of those that do it side by side
		run func(context.Context) error
	}{
		"messages": {4, f.messages}, "unfinished": {40, f.unfinished}, "headers": {8, f.headers}, "hpack": {8, f.hpack},
		"connections": {2000, f.connection}, "refusals": {16, f.refusals(true)}, "unread": {16, f.refusals(false)},
		"of one token": {4, f.messages}, "metrics": {1000, f.connection},
	}
	if q, ok := f.questions()[f.Kind]; ok {
		return json.NewEncoder(os.Stdout).Encode(f.ask(ctx, q))
	}
	k, ok := kinds[f.Kind]
	if !ok {
		return fmt.Errorf("no flood of %q", f.Kind)
	}
	var all sync.WaitGroup
	for range k.n {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = k.run(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	all.Wait()
	return nil
}

func (f flood) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, f.Network, f.Addr)
	if err != nil {
		return nil, err
	}
	if f.Network == "tcp" && f.Kind != "metrics" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13})
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return conn, nil
}

// messages sends large messages of small fields, which cost most to decode, on 16 streams at a time, with ten calls of ext_authz beside them.
func (f flood) messages(ctx context.Context) error {
	creds, target := insecure.NewCredentials(), "unix://"+f.Addr
	if f.Network == "tcp" {
		creds, target = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}), f.Addr
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	size := 3 << 20 // a name of none is two bytes, so that is some 6 MB
	if f.Kind == "of one token" {
		size = 90_000 // the most that is decoded
	}
	q := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: f.Proxy, UserAgentName: "envoy"}, TypeUrl: secretType, ResourceNamesSubscribe: make([]string, size)}
	text, err := proto.Marshal(q)
	if err != nil {
		return err
	}
	var encoded emptypb.Empty // to which all fields are unknown, so that they are sent as they are
	encoded.ProtoReflect().SetUnknown(text)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.Token, "x-sallyport-proxy", f.Proxy, "x-sallyport-destination", "web")
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
			for err == nil {
				err = stream.SendMsg(&encoded)
			}
		})
	}
	all.Wait()
	return nil
}

// raw is a connection on which HTTP/2 is spoken by hand.
type raw struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	pack  *hpack.Encoder
	read  chan struct{} // closed when the other end has closed
}

// open opens a connection; what comes is read and dropped, or left.
func (f flood) open(ctx context.Context, read bool) (*raw, error) {
	conn, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	r := &raw{Conn: conn, Framer: http2.NewFramer(conn, conn), read: make(chan struct{})}
	r.pack = hpack.NewEncoder(&r.block)
	r.AllowIllegalWrites = true
	if _, err = io.WriteString(conn, http2.ClientPreface); err == nil {
		err = r.WriteSettings()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	if read {
		go func() {
			defer close(r.read)
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
	return r, nil
}

// fields are the headers of a call, as a block.
func (f flood) fields(r *raw, method string, more ...hpack.HeaderField) []byte {
	r.block.Reset()
	if f.Method != "" {
		method = f.Method
		more = append(more, hpack.HeaderField{Name: "workload.spiffe.io", Value: "true"})
	}
	for _, h := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: method},
		{Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
		{Name: "authorization", Value: "Bearer " + f.Token},
		{Name: "x-sallyport-proxy", Value: f.Proxy},
		{Name: "x-sallyport-destination", Value: "web"},
	}, more...) {
		_ = r.pack.WriteField(h)
	}
	return r.block.Bytes()
}

// unfinished opens as many calls as it may whose messages do not end, and holds them.
func (f flood) unfinished(ctx context.Context) error {
	r, err := f.open(ctx, true)
	if err != nil {
		return err
	}
	defer r.Close()
	body := binary.BigEndian.AppendUint32([]byte{0}, 8<<20)
	body = append(body, make([]byte, 3<<10)...)
	for i := range uint32(1000) {
		err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.fields(r, authv3.Authorization_Check_FullMethodName), EndHeaders: true})
		if err == nil {
			err = r.WriteData(2*i+1, false, body)
		}
		if err != nil {
			return err
		}
	}
	select {
	case <-r.read:
		return errors.New("closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// headers sends headers without an end.
func (f flood) headers(ctx context.Context) error {
	r, err := f.open(ctx, true)
	if err != nil {
		return err
	}
	defer r.Close()
	err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.fields(r, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)})
	for i := 0; err == nil; i++ {
		r.block.Reset()
		_ = r.pack.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: strings.Repeat("~", 10<<10), Sensitive: true})
		err = r.WriteContinuation(1, false, r.block.Bytes())
	}
	return err
}

// hpack names a large field of the dynamic table again and again, a byte each time, in headers that nobody answers.
func (f flood) hpack(ctx context.Context) error {
	r, err := f.open(ctx, true)
	if err != nil {
		return err
	}
	defer r.Close()
	large := hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 3800)}
	for i := uint32(1); err == nil; i += 2 {
		block := f.fields(r, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName, large)
		if i > 1 { // the table has it
			block = append(bytes.Clone(block), bytes.Repeat(block[len(block)-1:], 4000)...)
		}
		err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: block, EndHeaders: true})
	}
	return err
}

// connection opens a connection and says nothing.
func (f flood) connection(ctx context.Context) error {
	conn, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if c, ok := conn.(*tls.Conn); ok {
		if err := c.HandshakeContext(ctx); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// refusals has stream after stream refused, and reads the answers or does not.
func (f flood) refusals(read bool) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		r, err := f.open(ctx, read)
		if err != nil {
			return err
		}
		defer r.Close()
		for i := uint32(1); err == nil; i += 2 {
			err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: f.fields(r, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName), EndHeaders: true, EndStream: true})
		}
		return err
	}
}
