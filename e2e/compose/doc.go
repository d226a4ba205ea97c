// Package compose tests the compose files beside it from outside, with the docker that runs here. The tests have the build tag e2e; `make e2e-compose` runs them:
//
//	hack/docker.sh go test -tags e2e ./e2e/compose
//
// Images are built for them and removed again, but for those that ENVOY_IMAGE, CONSUL_IMAGE, SALLYPORT_IMAGE and APP_IMAGE name; COMPOSE names another
// compose command than the one that is found. Nothing is left behind: no container, network, volume or image.
package compose
