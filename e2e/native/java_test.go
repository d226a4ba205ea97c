//go:build e2e

package native

import (
	"fmt"
	"os/exec"
	"strconv"
	"testing"
)

// TestJava runs the server and the client of docs/native/java.md: leaf and roots by java-spiffe, judgements by the JDK's HTTP client.
func TestJava(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"javac", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("NOTE: TestJava is not run: %v: apt-get install default-jdk-headless maven", err)
		}
	}
	at, api := port(t), port(t)
	address := fmt.Sprintf("127.0.0.1:%d", api)
	const classes = "target/classes:target/lib/*"
	p := &program{
		t: t, page: readPage(t, "native/java.md"),
		server: func(port int) []string {
			return []string{"java", "-cp", classes, "Server", "api", "127.0.0.1", strconv.Itoa(port)}
		},
		client: func(port int, service string) []string {
			return []string{"java", "-Dspiffe.newX509Source.timeout=PT5S", "-cp", classes, "Client", fmt.Sprintf("https://127.0.0.1:%d/", port), service}
		},
	}
	m, b := filesPage(t, at, "--api-address", address)
	p.named(m, at)
	for service, environ := range m.withTokens(address) {
		p.environ[service] = append(append(p.environ[service], environ...), "JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1") // they run for a moment
	}
	p.page.types("mvn -q -B compile dependency:copy-dependencies -DoutputDirectory=target/lib")
	p.runs(b, at)
}
