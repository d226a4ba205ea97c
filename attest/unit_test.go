package attest

import "testing"

func TestUnitOf(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/web.service\n":                                           "web.service",
		"0::/system.slice/web.service/inner/other.service\n":                       "web.service",
		"0::/system.slice/system-web.slice/web@1.service\n":                        "web@1.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                         "session-3.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n": "user@1000.service",
		"0::/init.scope\n":                     "init.scope",
		"0::/\n":                               "",
		"0::/system.slice\n":                   "",
		"0::/system.slice/_web.service\n":      "web.service",
		"0::/../../system.slice/web.service\n": "",
		"0::/docker/0123/web.service\n":        "",
		"0::system.slice/web.service\n":        "",
		"12:cpu:/system.slice/cpu.service\n1:name=systemd:/system.slice/web.service\n": "web.service",
		"0::/system.slice/v2.service\n1:name=systemd:/system.slice/web.service\n":      "web.service",
		"1:name=other:/system.slice/web.service\n":                                     "",
		"4:memory:/system.slice/web.service\n":                                         "",
		"0::/system.slice/web.service:odd.service\n":                                   "web.service:odd.service",
		"":     "",
		"0::":  "",
		"junk": "",
	} {
		got, ok := unitOf(text)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("unitOf(%q) = %q; want %q", text, got, want)
		}
	}
}
