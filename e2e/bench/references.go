package main

import (
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the fields on the way to the names, in Envoy's v3 API.
const (
	edsType = 3 // Cluster.DiscoveryType.EDS

	clusterTypeField       = 2
	clusterEDSConfig       = 3
	clusterServiceName     = 2
	clusterName            = 1
	clusterTransportSocket = 24
	listenerChains         = 3
	chainFilters           = 3
	chainTransportSocket   = 6
	filterName             = 1
	filterTypedConfig      = 4
	filterDiscovery        = 5
	hcmRDS                 = 3
	rdsName                = 2
	hcmFilters             = 5
	socketTypedConfig      = 3
	anyTypeURL             = 1
	anyValue               = 2
	tlsCommon              = 1
	tlsCertificates        = 6
	tlsValidation          = 7
	tlsCombined            = 8
	combinedSDS            = 2
	secretName             = 1

	hcmURL = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)

// references tells add what a cluster or listener makes Envoy ask for. It reads the bytes where it knows the names to be, as decoding
// thousands of messages would cost the client more than all that is measured costs the server; its test compares it with a walk
// through the whole messages.
func references(typeURL string, b []byte, add func(typeURL, name string)) {
	switch typeURL {
	case resourcev3.ClusterType:
		cluster(b, add)
	case resourcev3.ListenerType:
		each(b, listenerChains, func(chain []byte) {
			each(chain, chainFilters, func(f []byte) { filter(f, add) })
			each(chain, chainTransportSocket, func(s []byte) { socket(s, add) })
		})
	}
}

func cluster(b []byte, add func(typeURL, name string)) {
	if number(b, clusterTypeField) == edsType {
		name := text(b, clusterName)
		each(b, clusterEDSConfig, func(c []byte) {
			if other := text(c, clusterServiceName); other != "" {
				name = other
			}
		})
		add(resourcev3.EndpointType, name)
	}
	each(b, clusterTransportSocket, func(s []byte) { socket(s, add) })
}

// filter is a network filter or, with the same numbers, an HTTP filter.
func filter(b []byte, add func(typeURL, name string)) {
	each(b, filterDiscovery, func([]byte) { add(resourcev3.ExtensionConfigType, text(b, filterName)) })
	each(b, filterTypedConfig, func(a []byte) {
		if text(a, anyTypeURL) != hcmURL {
			return
		}
		each(a, anyValue, func(m []byte) {
			each(m, hcmRDS, func(r []byte) { add(resourcev3.RouteType, text(r, rdsName)) })
			each(m, hcmFilters, func(f []byte) { filter(f, add) })
		})
	})
}

// socket is a transport socket of TLS, of a listener or a cluster.
func socket(b []byte, add func(typeURL, name string)) {
	secret := func(s []byte) { add(resourcev3.SecretType, text(s, secretName)) }
	sds := func(s []byte) {
		const sdsConfig = 2
		each(s, sdsConfig, func([]byte) { secret(s) })
	}
	each(b, socketTypedConfig, func(a []byte) {
		each(a, anyValue, func(tls []byte) {
			each(tls, tlsCommon, func(c []byte) {
				each(c, tlsCertificates, sds)
				each(c, tlsValidation, sds)
				each(c, tlsCombined, func(v []byte) { each(v, combinedSDS, sds) })
			})
		})
	})
}

// each calls f with the messages, texts or bytes of one field of a message.
func each(b []byte, field protowire.Number, f func([]byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if num == field && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return
			}
			f(v)
			b = b[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return
		}
		b = b[n:]
	}
}

func text(b []byte, field protowire.Number) (s string) {
	each(b, field, func(v []byte) { s = string(v) })
	return s
}

func number(b []byte, field protowire.Number) (v uint64) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return v
		}
		b = b[n:]
		if num == field && typ == protowire.VarintType {
			v, _ = protowire.ConsumeVarint(b)
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return v
		}
		b = b[n:]
	}
	return v
}
