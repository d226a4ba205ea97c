//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/meshtest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// wire is a client that sends requests byte for byte as they are given, one after the other on one connection as long as that lives.
type wire struct {
	client meshtest.Client
	addr   string
	h2     bool

	// outages counts the answers 503, which a control plane that answers too late makes, and which are asked for again.
	outages int

	conn   *tls.Conn
	dials  int
	reader *bufio.Reader
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	stream uint32
}

const wirePatience = 10 * time.Second

// ask is the status of the answer, or "reset" if the request was refused without one.
func (w *wire) ask(r *decisiontable.Request) (status string) {
	for range 5 {
		if status = w.askOnce(r); status != "503" {
			break
		}
		w.outages++
	}
	return status
}

func (w *wire) askOnce(r *decisiontable.Request) string {
	for range 2 {
		if w.conn == nil {
			if err := w.dial(); err != nil {
				return err.Error()
			}
		}
		fresh := w.stream == 0
		w.stream += 2
		_ = w.conn.SetDeadline(time.Now().Add(wirePatience))
		status, keep, err := w.exchange(r)
		if !keep || err != nil {
			w.close()
		}
		if err == nil {
			return status
		}
		if fresh { // an old connection may have been closed meanwhile
			return "reset"
		}
	}
	return "reset"
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

func (w *wire) dial() (err error) {
	w.client.HTTP2 = w.h2
	if w.conn, err = w.client.Dial(w.addr); err != nil {
		return err
	}
	w.dials++
	w.stream = 0
	w.reader = bufio.NewReader(w.conn)
	if !w.h2 {
		return nil
	}
	w.framer = http2.NewFramer(w.conn, w.reader)
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.block.Reset()
	w.hpack = hpack.NewEncoder(&w.block)
	if _, err = io.WriteString(w.conn, http2.ClientPreface); err != nil {
		return err
	}
	return w.framer.WriteSettings()
}

func (w *wire) exchange(r *decisiontable.Request) (status string, keep bool, err error) {
	if w.h2 {
		return w.exchange2(r)
	}
	if _, err := io.WriteString(w.conn, strings.Replace(r.H1(), "Connection: close\r\n", "", 1)); err != nil {
		return "", false, err
	}
	resp, err := http.ReadResponse(w.reader, &http.Request{Method: r.Method})
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return fmt.Sprint(resp.StatusCode), !resp.Close, err
}

func (w *wire) exchange2(r *decisiontable.Request) (status string, keep bool, err error) {
	id := w.stream - 1
	w.block.Reset()
	for _, h := range append([][2]string{{":method", r.Method}, {":scheme", "https"}, {":path", r.Path}, {":authority", "web"}}, r.Headers...) {
		if err := w.hpack.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return "", false, err
		}
	}
	block := w.block.Bytes()
	const most = 16 << 10
	first := block[:min(len(block), most)]
	err = w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: true, EndHeaders: len(first) == len(block)})
	for rest := block[len(first):]; len(rest) > 0 && err == nil; {
		n := min(len(rest), most)
		err = w.framer.WriteContinuation(id, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	for err == nil {
		var f http2.Frame
		if f, err = w.framer.ReadFrame(); err != nil {
			break
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = w.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = w.framer.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			if status == "" && f.ErrCode != http2.ErrCodeNo {
				return "reset", false, nil
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				if status == "" {
					status = "reset"
				}
				return status, true, nil
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				status = f.PseudoValue("status")
				if f.StreamEnded() {
					return status, true, nil
				}
			}
		case *http2.DataFrame:
			if n := uint32(f.Header().Length); n > 0 {
				err = w.framer.WriteWindowUpdate(0, n)
			}
			if f.StreamID == id && f.StreamEnded() {
				return status, true, nil
			}
		}
	}
	return "", false, err
}
