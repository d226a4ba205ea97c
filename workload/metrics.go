package workload

import (
	"errors"
	"strings"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
)

// The values of the label "reason" of sallyport_workload_denials_total.
const (
	reasonAttestation = "attestation" // the process could not be told
	reasonHeader      = "header"      // no security header
	reasonLimit       = "limit"       // too many connections or streams
	reasonNobody      = "nobody"      // root, our own user, the overflow user
	reasonNotReady    = "not_ready"   // no leaf yet
	reasonRight       = "right"       // Consul gives no right to the service
	reasonSecret      = "secret"      // SDS: a name that the process has no right to
	reasonUnnamed     = "unnamed"     // no service names the process
)

// kind is what is known of a method.
type kind struct {
	label   string
	header  bool // it needs the security header
	secrets bool // it is SDS
}

// kindOf is the kind of a method by its full name.
func kindOf(method string) kind {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case workloadpb.SpiffeWorkloadAPI_ServiceDesc.ServiceName:
		return kind{label: name, header: true}
	case secretv3.SecretDiscoveryService_ServiceDesc.ServiceName:
		return kind{label: name, secrets: true}
	}
	return kind{label: "other"}
}

type metrics struct {
	requests  *prometheus.CounterVec
	denials   *prometheus.CounterVec
	streams   prometheus.Gauge
	handedOut prometheus.Counter
	refused   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_workload_requests_total",
			Help: "Streams and calls of the SPIFFE Workload API and of SDS on workload.sock, by method.",
		}, []string{"method"}),
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_workload_denials_total",
			Help: "What was refused on workload.sock, by reason: attestation, header, limit, nobody (root, the control plane's own user, the overflow user), not_ready, right (none by Consul's ACLs), secret (a name in SDS that is none of the process's), unnamed (no service names the process).",
		}, []string{"reason"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_workload_streams",
			Help: "Streams and calls that are open on workload.sock.",
		}),
		handedOut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_workload_leafs_handed_out_total",
			Help: "Leafs that were handed to processes on workload.sock, each once a connection.",
		}),
	}
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_workload_secrets_refused_total",
		Help: "Responses of SDS that an Envoy refused. The log has why.",
	})
	for _, service := range []grpc.ServiceDesc{workloadpb.SpiffeWorkloadAPI_ServiceDesc, secretv3.SecretDiscoveryService_ServiceDesc} {
		for _, o := range service.Methods {
			m.requests.WithLabelValues(o.MethodName)
		}
		for _, o := range service.Streams {
			m.requests.WithLabelValues(o.StreamName)
		}
	}
	for _, reason := range []string{reasonAttestation, reasonHeader, reasonLimit, reasonNobody, reasonNotReady, reasonRight, reasonSecret, reasonUnnamed} {
		m.denials.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(m.requests), r.Register(m.denials), r.Register(m.streams), r.Register(m.handedOut), r.Register(m.refused))
}

func (m *metrics) denied(reason string) { m.denials.WithLabelValues(reason).Inc() }
