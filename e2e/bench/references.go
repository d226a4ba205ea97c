package main

import (
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const hcm3 = "envoy.extensions.filters.network.http_connection_manager.v3"

// names are the messages that make Envoy ask for something if they have a source of configuration,
// and where that and the name are in them.
var names = map[protoreflect.FullName]struct {
	source, name protowire.Number
	typeURL      string
}{
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": {2, 1, resourcev3.SecretType},
	hcm3 + ".Rds":                             {1, 2, resourcev3.RouteType},
	hcm3 + ".HttpFilter":                      {5, 1, resourcev3.ExtensionConfigType},
	"envoy.config.listener.v3.Filter":         {5, 1, resourcev3.ExtensionConfigType},
	"envoy.config.listener.v3.ListenerFilter": {5, 1, resourcev3.ExtensionConfigType},
}

const (
	anyName     = "google.protobuf.Any"
	clusterName = "envoy.config.cluster.v3.Cluster"
)

// references tells add what a resource makes Envoy ask for. It skips through the bytes to what can
// name something, as decoding thousands of messages would cost the client more than all that is
// measured costs the server; its test compares it with a walk through whole messages.
func references(typeURL string, b []byte, add func(typeURL, name string)) {
	if m, err := protoregistry.GlobalTypes.FindMessageByURL(typeURL); err == nil {
		walk(m.Descriptor(), b, add)
	}
}

func walk(m protoreflect.MessageDescriptor, b []byte, add func(typeURL, name string)) {
	switch m.FullName() {
	case anyName:
		url := text(b, 1)
		each(b, 2, func(v []byte) { references(url, v, add) })
		return
	case clusterName:
		cluster(b, add)
	}
	if n, ok := names[m.FullName()]; ok {
		each(b, n.source, func([]byte) { add(n.typeURL, text(b, n.name)) })
	}
	inner := leading(m)
	fields(b, func(field protowire.Number, v []byte) {
		if next := inner[field]; next != nil {
			walk(next, v, add)
		}
	})
}

// cluster adds the endpoints of a cluster, which have its own name unless it says another.
func cluster(b []byte, add func(typeURL, name string)) {
	const nameField, typeField, edsField, serviceNameField = 1, 2, 3, 2
	if number(b, typeField) != uint64(clusterv3.Cluster_EDS) {
		return
	}
	name := text(b, nameField)
	each(b, edsField, func(c []byte) {
		if other := text(c, serviceNameField); other != "" {
			name = other
		}
	})
	add(resourcev3.EndpointType, name)
}

// known are the fields of messages that lead to something that can name a resource.
var known sync.Map // protoreflect.FullName → map[protowire.Number]protoreflect.MessageDescriptor

// leading is what of m leads to something that can name a resource.
func leading(m protoreflect.MessageDescriptor) map[protowire.Number]protoreflect.MessageDescriptor {
	if all, ok := known.Load(m.FullName()); ok {
		found, _ := all.(map[protowire.Number]protoreflect.MessageDescriptor)
		return found
	}
	all := map[protowire.Number]protoreflect.MessageDescriptor{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() != nil && leads(f.Message(), map[protoreflect.FullName]bool{}) {
			all[f.Number()] = f.Message()
		}
	}
	known.Store(m.FullName(), all)
	return all
}

// leads reports whether m or something in it can name a resource. What is seen is not asked again.
func leads(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if _, ok := names[m.FullName()]; ok || m.FullName() == anyName || m.FullName() == clusterName {
		return true
	}
	if seen[m.FullName()] {
		return false
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		if inner := m.Fields().Get(i).Message(); inner != nil && leads(inner, seen) {
			return true
		}
	}
	return false
}

// fields calls f with each field of a message that is a message, text or bytes.
func fields(b []byte, f func(field protowire.Number, v []byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return
			}
			f(num, v)
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return
		}
		b = b[n:]
	}
}

// each calls f with each value of one field of a message.
func each(b []byte, field protowire.Number, f func([]byte)) {
	fields(b, func(num protowire.Number, v []byte) {
		if num == field {
			f(v)
		}
	})
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
