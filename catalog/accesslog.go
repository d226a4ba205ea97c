package catalog

// AccessLogs are what a proxy's Envoy writes of the requests and connections that it has served, and where. The zero value: nothing. It is
// comparable.
type AccessLogs struct {
	// Enabled: there are any. Nothing else counts unless it is set.
	Enabled bool
	// WithoutListener leaves out connections whose handshake failed, of which no request and no connection of the application comes.
	WithoutListener bool
	Sink            LogSink
	Path            string // of the file, for LogFile
	// JSON is an object whose texts are formats, and Text a format of lines, in Envoy's language; both are empty unless something else
	// than sallyport's own object is wanted. One of them at most is set.
	JSON, Text string
	// FailuresOnly leaves out what went well.
	FailuresOnly bool
}

// LogSink is where access logs go.
type LogSink uint8

// The sinks.
const (
	LogStdout LogSink = iota // Envoy's standard output
	LogStderr
	LogFile
)

// String is the sink as Consul spells it.
func (s LogSink) String() string {
	switch s {
	case LogStderr:
		return "stderr"
	case LogFile:
		return "file"
	case LogStdout:
	}
	return "stdout"
}
