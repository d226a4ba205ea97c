package definition

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
)

// AccessLogs reads the key AccessLogs of proxy-defaults, or access_logs of a proxy; ok is false if there is nothing, or a mistake: then there
// are none.
func (d *Decoder) AccessLogs(key string) (s Setting[catalog.AccessLogs]) {
	c, ok := d.Child(key, key)
	if !ok {
		return s
	}
	c.instead = "there are no access logs"
	l, wrong := catalog.AccessLogs{Enabled: c.Boolean("Enabled").Value, WithoutListener: c.Boolean("DisableListenerLogs").Value}, false
	kind, path := c.Text("Type"), c.Text("Path")
	text, object := c.Text("TextFormat"), c.Text("JSONFormat")
	refuse := func(at Position, format string, args ...any) {
		c.Mistake(at, "AccessLogs: "+format, args...)
		wrong = true
	}
	switch kind.Value {
	case "", "stdout":
		l.Sink = catalog.LogStdout
	case "stderr":
		l.Sink = catalog.LogStderr
	case "file":
		l.Sink, l.Path = catalog.LogFile, path.Value
	default:
		refuse(kind.At, "invalid access log type: %.60s: stdout, stderr and file are known", kind.Value)
	}
	switch file := l.Sink == catalog.LogFile; {
	case wrong:
	case path.Set && !file:
		refuse(path.At, "path is only valid for file type access logs: say Type = \"file\", or remove Path")
	case file && !path.Set:
		refuse(kind.At, "path must be specified when using file type access logs")
	case file && (!filepath.IsAbs(path.Value) || strings.ContainsRune(path.Value, 0) || len(path.Value) > 4095):
		refuse(path.At, "Path %.60q must be absolute: each Envoy has a working directory of its own", path.Value)
	}
	switch {
	case text.Set && object.Set:
		refuse(text.At, "cannot specify both access log JSONFormat and TextFormat")
	case text.Set:
		l.Text = text.Value
		if why := wrongFormat(text.Value); why != "" {
			refuse(text.At, "TextFormat: %s", why)
		}
	case object.Set:
		l.JSON = object.Value
		if why := wrongObject(object.Value); why != "" {
			refuse(object.At, "invalid access log json for JSON format: %s", why)
		}
	}
	broken := c.Faulty("Enabled", "DisableListenerLogs", "Type", "Path", "TextFormat", "JSONFormat")
	c.Done()
	if wrong || broken {
		return s
	}
	return Setting[catalog.AccessLogs]{true, l, c.At}
}

// maxFormat bounds a format, which is in each of a sidecar's listeners.
const maxFormat = 8 << 10

func wrongFormat(format string) string {
	if len(format) > maxFormat {
		return fmt.Sprintf("it has %d bytes: at most %d", len(format), maxFormat)
	}
	return chain.WrongCommands(format)
}

// wrongObject says what is wrong with a format that is an object in JSON; Envoy takes texts, numbers, booleans and objects of these.
func wrongObject(format string) string {
	if len(format) > maxFormat {
		return fmt.Sprintf("it has %d bytes: at most %d", len(format), maxFormat)
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(format), &object); err != nil {
		return err.Error()
	}
	if object == nil {
		return "it must be an object"
	}
	return wrongValues("", object, 0)
}

// deepest bounds how objects are nested.
const deepest = 20

func wrongValues(path string, v any, depth int) string {
	if depth > deepest {
		return "it is nested too deep"
	}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if why := wrongValues(path+"."+key, value, depth+1); why != "" {
				return why
			}
		}
	case []any:
		for _, value := range v {
			if why := wrongValues(path, value, depth+1); why != "" {
				return why
			}
		}
	case string:
		if why := chain.WrongCommands(v); why != "" {
			return strings.TrimPrefix(path, ".") + ": " + why
		}
	}
	return ""
}

// parseLogged reports whether what failed is logged alone.
func parseLogged(s string) (failures, ok bool) { return s == "failures", s == "failures" || s == "all" }
