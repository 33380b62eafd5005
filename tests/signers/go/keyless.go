package main

import (
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/proto"
)

const (
	email    = "builder@example.com"
	workflow = "https://git.example/team/app/.ci/release.yml@refs/heads/main"
	issuer   = "https://issuer.example"
)

// keyless signs with certificates of a few minutes, as `cosign sign` does without a key.
func keyless() {
	home := found("lazaretto tests")
	trusted := trust("keyless", home)
	other := trust("keyless-other-root", found("lazaretto tests, elsewhere"))

	image := statement(signPredicate, map[string]any{}, subject(ours))
	minuteBefore := signedAt.Add(-time.Minute)
	at := func(identity string) leaf {
		return leaf{authority: home, identity: identity, issuer: issuer, from: minuteBefore}
	}
	all := func(leaf leaf, payload []byte) *protobundle.Bundle {
		return certified(leaf, payload, rekor{home, signedAt}.client(), stamps{home, signedAt}.client())
	}
	asks := func(name string, bundle *protobundle.Bundle) keylessFixture {
		return keylessFixture{bundled(name, bundle), trusted}
	}

	good := all(at(email), image)
	asks("keyless", good).accepted(email)
	asks("keyless-uri", all(at(workflow), image)).accepted(workflow)

	// Three ways to prove the time. The second version of Rekor knows none.
	asks("keyless-integrated-time", certified(at(email), image, rekor{home, signedAt}.client())).accepted(email)
	asks("keyless-rekor-v2", certified(at(email), image, tiled{home}.client(), stamps{home, signedAt}.client())).accepted(email)
	asks("keyless-no-time", certified(at(email), image, tiled{home}.client())).refused(email)

	asks("keyless-other", all(at(email), statement(signPredicate, map[string]any{}, subject(others[0])))).refused(email)

	longGone := at(email)
	longGone.from = signedAt.Add(-2 * time.Hour)
	asks("keyless-expired", all(longGone, image)).refused(email)
	asks("keyless-rekor-v2-expired", certified(longGone, image, tiled{home}.client(), stamps{home, signedAt}.client())).refused(email)

	unlogged := at(email)
	unlogged.withoutSCT = true
	asks("keyless-no-sct", all(unlogged, image)).refused(email)

	unproven := proto.CloneOf(good)
	unproven.VerificationMaterial.TlogEntries[0].InclusionProof = nil
	asks("keyless-no-inclusion", unproven).refused(email)

	// Everything holds by itself, but the entry is of another signature with the same words.
	borrowed := proto.CloneOf(good)
	borrowed.VerificationMaterial.TlogEntries = all(at(email), image).VerificationMaterial.TlogEntries
	asks("keyless-other-entry", borrowed).refused(email)

	keylessFixture{fixture{"keyless"}, other}.refused(email)
	keylessFixture{fixture{"keyless"}, trusted}.refused(workflow)
}

// certified signs with a key that nobody keeps.
func certified(leaf leaf, payload []byte, log sign.Transparency, stamps ...*sign.TimestampAuthority) *protobundle.Bundle {
	pair, err := sign.NewEphemeralKeypair(nil)
	must(err)
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: inToto}, pair, sign.BundleOptions{
		CertificateProvider: leaf, TransparencyLogs: []sign.Transparency{log}, TimestampAuthorities: stamps,
	})
	must(err)
	return bundle
}

// trust writes what is to be trusted and reads it back.
func trust(name string, authority *authority) *root.TrustedRoot {
	text, err := authority.trusted().MarshalJSON()
	must(err)
	write(name+".trusted_root.json", pretty(text))
	read, err := root.NewTrustedRootFromJSON(text)
	must(err)
	return read
}

type keylessFixture struct {
	fixture
	trusted *root.TrustedRoot
}

func (f keylessFixture) accepted(identity string) {
	f.say(true, f.verifyKeyless(f.trusted, identity, issuer))
}

func (f keylessFixture) refused(identity string) {
	f.say(false, f.verifyKeyless(f.trusted, identity, issuer))
}
