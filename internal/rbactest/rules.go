package rbactest

import (
	"fmt"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
)

// Rules is the matcher of the RBAC filter that the Envoy of in is told.
func Rules(in snapshot.Input) (*matcherv3.Matcher, error) {
	r, err := snapshot.Build(in)
	if err != nil {
		return nil, err
	}
	unpack := func(typ, name string, into proto.Message) error {
		got := r.ByType["type.googleapis.com/"+typ].Get(name)
		if got == nil {
			return fmt.Errorf("no resource %s %s", typ, name)
		}
		return got.Resource.UnmarshalTo(into)
	}
	service := in.Proxy.Service.String()
	if !in.Proxy.Inbound.Protocol.L7() {
		extension, rbac := &corev3.TypedExtensionConfig{}, &networkrbacv3.RBAC{}
		if err := unpack("envoy.config.core.v3.TypedExtensionConfig", "intentions/"+service, extension); err != nil {
			return nil, err
		}
		if err := extension.GetTypedConfig().UnmarshalTo(rbac); err != nil {
			return nil, err
		}
		return rbac.GetMatcher(), nil
	}
	route, rbac := &routev3.RouteConfiguration{}, &httprbacv3.RBACPerRoute{}
	if err := unpack("envoy.config.route.v3.RouteConfiguration", "inbound/"+service, route); err != nil {
		return nil, err
	}
	if err := route.GetVirtualHosts()[0].GetTypedPerFilterConfig()["envoy.filters.http.rbac"].UnmarshalTo(rbac); err != nil {
		return nil, err
	}
	return rbac.GetRbac().GetMatcher(), nil
}
