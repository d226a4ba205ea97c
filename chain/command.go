package chain

import (
	"fmt"
	"regexp"
	"strings"
)

// commands are what Envoys 1.36 to 1.40 put into the values of headers, between percent signs. Each was tried on both.
var commands = map[string]command{}

// command is how one is written.
type command struct {
	// bare: it may stand alone, as %PROTOCOL%. argument is what it may have in parentheses otherwise; nil: nothing.
	bare     bool
	argument *regexp.Regexp
	// bounded: a number of bytes may follow, as in %REQ(x):10%.
	bounded bool
}

// commandForm is a command as Envoy reads it.
var commandForm = regexp.MustCompile(`^%([A-Z0-9_]+)(\((.*?)\))?(:[0-9]+)?%`)

func init() {
	anything, parts := regexp.MustCompile(`^.+$`), regexp.MustCompile(`^[^:]+:.+$`)
	// A header, and another one where that is missing.
	header, word := regexp.MustCompile(`^:?[!#$%&'*+.^_|~0-9A-Za-z`+"`"+`-]+(\?:?[!#$%&'*+.^_|~0-9A-Za-z`+"`"+`-]+)?$`), regexp.MustCompile(`^[^:]+$`)
	for _, c := range []struct {
		command
		names string
	}{
		{command{argument: header, bounded: true}, "REQ RESP TRAILER STREAM_INFO_REQ"},
		{command{argument: word, bounded: true}, "FILTER_STATE UPSTREAM_FILTER_STATE"},
		{command{argument: anything, bounded: true}, "QUERY_PARAM ENVIRONMENT"},
		{command{argument: anything}, "DYNAMIC_METADATA CLUSTER_METADATA UPSTREAM_METADATA"},
		{command{argument: word}, "PER_REQUEST_STATE"},
		{command{argument: parts}, "COMMON_DURATION"},
		{command{bare: true, bounded: true}, "PATH"},
		{command{bare: true, argument: anything}, "START_TIME START_TIME_LOCAL EMIT_TIME RESPONSE_CODE_DETAILS " +
			"UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CERT_V_END"},
		{command{bare: true}, `
REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES LOCAL_REPLY_BODY GRPC_STATUS GRPC_STATUS_NUMBER ACCESS_LOG_TYPE PROTOCOL RESPONSE_CODE
CONNECTION_TERMINATION_DETAILS BYTES_RECEIVED BYTES_SENT BYTES_RETRANSMITTED PACKETS_RETRANSMITTED DURATION REQUEST_DURATION REQUEST_TX_DURATION RESPONSE_DURATION
RESPONSE_TX_DURATION ROUNDTRIP_DURATION DOWNSTREAM_HANDSHAKE_DURATION UPSTREAM_CONNECTION_POOL_READY_DURATION RESPONSE_FLAGS RESPONSE_FLAGS_LONG
UPSTREAM_HOST UPSTREAM_HOST_NAME UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID
UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_PORT UPSTREAM_REMOTE_ADDRESS UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT
UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_PROTOCOL UPSTREAM_TLS_CIPHER UPSTREAM_TLS_VERSION UPSTREAM_TLS_SESSION_ID UPSTREAM_PEER_ISSUER UPSTREAM_PEER_CERT
UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_LOCAL_URI_SAN UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN
UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT UPSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT
UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT
DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS
DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT
DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_LOCAL_PORT DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_PEER_DNS_SAN
DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_IP_SAN
DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_CIPHER
DOWNSTREAM_TLS_VERSION DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256
DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_CERT DOWNSTREAM_TRANSPORT_FAILURE_REASON
DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT
DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT
REQUESTED_SERVER_NAME ROUTE_NAME VIRTUAL_CLUSTER_NAME HOSTNAME CONNECTION_ID STREAM_ID TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT UNIQUE_ID TRACE_ID CUSTOM_FLAGS`},
	} {
		for name := range strings.FieldsSeq(c.names) {
			commands[name] = c.command
		}
	}
}

// maxValue bounds a header's value, in bytes: Envoy's own bound on these.
const maxValue = 16384

// wrongValue says why Envoy refuses the value of a header that it sets; empty: it takes it.
func wrongValue(v string) string {
	if !isValue(v) {
		return "the value has a character that no header can have"
	}
	if len(v) > maxValue {
		return fmt.Sprintf("the value has %d bytes: at most %d", len(v), maxValue)
	}
	return WrongCommands(v)
}

// WrongCommands says why Envoy refuses a text in which it replaces commands, as %PROTOCOL%; empty: it takes it.
func WrongCommands(v string) string {
	for rest := v; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return ""
		}
		if rest = rest[i:]; strings.HasPrefix(rest, "%%") {
			rest = rest[2:]
			continue
		}
		m := commandForm.FindStringSubmatch(rest)
		if m == nil {
			return fmt.Sprintf("a lone %% in %.60q: write %%%% for one, or %%COMMAND%%", v)
		}
		c, known := commands[m[1]]
		switch {
		case !known:
			return m[0] + " is no command that Envoys know"
		case m[2] == "" && !c.bare, m[2] != "" && (c.argument == nil || !c.argument.MatchString(m[3])), m[4] != "" && !c.bounded:
			return fmt.Sprintf("the command %s is not written so: Envoys refuse its argument, or that it has none", m[0])
		}
		rest = rest[len(m[0]):]
	}
}
