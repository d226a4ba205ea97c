package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"
)

// Profiles of bundle endpoints (SPIFFE Federation, 5.2).
const (
	ProfileWeb    = "https_web"
	ProfileSPIFFE = "https_spiffe"
)

// definition is what a file says of another trust domain.
type definition struct {
	file        string
	trustDomain spiffeid.TrustDomain
	// bundle is a file, a full path. Without an endpoint that is the bundle, and beside one what is believed first. Empty: none.
	bundle string
	// url is of the bundle endpoint; empty: there is none.
	url, profile string
	endpointID   spiffeid.ID // of https_spiffe
	caFile       string      // of https_web; empty: the system's
}

// written is a definition as it stands in a file.
type written struct {
	TrustDomain string `yaml:"trust_domain"`
	Bundle      string `yaml:"bundle"`
	Endpoint    *struct {
		URL      string `yaml:"url"`
		Profile  string `yaml:"profile"`
		SPIFFEID string `yaml:"spiffe_id"`
		CAFile   string `yaml:"ca_file"`
	} `yaml:"endpoint"`
}

const (
	maxDefinition = 64 << 10
	// maxName is how long the name of a trust domain may be in bytes: a file is named after it.
	maxName = 240
)

// read reads the definition in a file. The error names the file and, where it can, the line.
func read(file string) (definition, error) {
	text, err := readFile(file, maxDefinition)
	if err != nil {
		return definition{}, err
	}
	return parseDefinition(file, text)
}

func parseDefinition(file string, text []byte) (definition, error) {
	d := definition{file: file}
	var w written
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&w); errors.Is(err, io.EOF) {
		return d, fmt.Errorf("%s: nothing is in it: say trust_domain, and bundle or endpoint", file)
	} else if err != nil {
		return d, yamlError(file, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return d, fmt.Errorf("%s: more than one document is in it: write a file for each trust domain", file)
	}
	wrong := func(key, format string, args ...any) (definition, error) {
		return d, fmt.Errorf("%s: %s", at(file, text, key), fmt.Sprintf(format, args...))
	}
	var err error
	switch d.trustDomain, err = spiffeid.TrustDomainFromString(w.TrustDomain); {
	case w.TrustDomain == "":
		return wrong("trust_domain", "trust_domain is missing: the name of the other trust domain, as in spiffe://NAME/…")
	case err != nil:
		return wrong("trust_domain", "trust_domain %.300q: %v", w.TrustDomain, err)
	case len(d.trustDomain.Name()) > maxName:
		return wrong("trust_domain", "trust_domain has more than %d bytes", maxName)
	case w.Bundle == "" && w.Endpoint == nil:
		return wrong("trust_domain", "neither bundle nor endpoint: name the file with the bundle of %s, or where it is asked for", d.trustDomain)
	}
	if w.Bundle != "" {
		d.bundle = beside(file, w.Bundle)
	}
	e := w.Endpoint
	if e == nil {
		return d, nil
	}
	d.url, d.profile = e.URL, e.Profile
	if _, _, err := splitURL(e.URL); err != nil {
		return wrong("url", "url: %v", err)
	}
	switch e.Profile {
	case ProfileWeb:
		if e.SPIFFEID != "" {
			return wrong("spiffe_id", "spiffe_id is for the profile %s: leave it out", ProfileSPIFFE)
		}
		if e.CAFile != "" {
			d.caFile = beside(file, e.CAFile)
		}
	case ProfileSPIFFE:
		if e.CAFile != "" {
			return wrong("ca_file", "ca_file is for the profile %s: here the bundle verifies the server", ProfileWeb)
		}
		if d.endpointID, err = spiffeid.FromString(e.SPIFFEID); err != nil {
			return wrong("spiffe_id", "spiffe_id %.300q: %v: the SPIFFE ID that the endpoint has, as spiffe://%s/spire/server", e.SPIFFEID, err, d.trustDomain)
		}
	default:
		return wrong("profile", "profile %.100q is neither %s nor %s: how the server proves itself", e.Profile, ProfileWeb, ProfileSPIFFE)
	}
	return d, nil
}

// beside is a path that a file names: it begins where the file is.
func beside(file, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(filepath.Dir(file), path)
}

// at is where a file has a key.
func at(file string, text []byte, key string) string {
	found := regexp.MustCompile(`(?m)(?:^|[ \t{,"])` + key + `"?[ \t]*:`).FindIndex(text)
	if found == nil {
		return file
	}
	return fmt.Sprintf("%s:%d", file, 1+bytes.Count(text[:found[0]], []byte("\n")))
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// yamlError says where a file is not what it should be.
func yamlError(file string, err error) error {
	text := err.Error()
	if t, ok := errors.AsType[*yaml.TypeError](err); ok && len(t.Errors) > 0 {
		text = t.Errors[0]
	}
	if m := yamlLine.FindStringSubmatch(strings.ReplaceAll(text, "\n", " ")); m != nil {
		file, text = file+":"+m[1], m[2]
	}
	text = strings.NewReplacer("field ", "key ", " not found in type bundle.written", ": the keys are trust_domain, bundle and endpoint",
		" not found in type struct", ": the keys of endpoint are url, profile, spiffe_id and ca_file; ").Replace(text)
	text, _, _ = strings.Cut(text, "; ") // what follows is Go's
	return fmt.Errorf("%s: %s", file, text)
}

// readFile reads a regular file of at most as many bytes.
func readFile(file string, most int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not stall who reads
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", file, most)
	}
	return text, err
}

// maxDomains bounds the trust domains. Envoy takes 201 in its stride; nobody has said that it does a thousand.
const maxDomains = 200

// definitions reads a directory. bad are the files that cannot be used, with why; of them nothing is known. The error is that the
// directory cannot be read, so that nothing is known at all.
func definitions(dir string) (good []definition, bad map[string]error, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	bad = map[string]error{}
	first := map[spiffeid.TrustDomain]string{}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if ext != ".yaml" && ext != ".yml" || strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		file := filepath.Join(dir, e.Name())
		d, err := read(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !isThere(file): // it went meanwhile
			continue
		case err == nil && first[d.trustDomain] != "":
			err = fmt.Errorf("%s: %s is in %s already: one of the files has to go", file, d.trustDomain, first[d.trustDomain])
		case err == nil && len(good) == maxDomains:
			err = fmt.Errorf("%s: there are %d trust domains already, which is the most", file, maxDomains)
		}
		if err != nil {
			bad[file] = err
			continue
		}
		first[d.trustDomain] = file
		good = append(good, d)
	}
	return good, bad, nil
}

// isThere reports whether a file has an entry, be it a link to nothing.
func isThere(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}
