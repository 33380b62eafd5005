// Command signers writes the fixtures of tests/fixtures/proof with the Go implementation of Sigstore.
//
//	go run . FOLDER
//	go run . --check FOLDER
//
// Keys that are in FOLDER stay; everything else is signed anew. What was written is read back and put before sigstore-go's own
// verifier: the program fails if that says otherwise than what a fixture is meant to be. With --check it does so with what
// ../js has signed.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// When everything was signed. It lies in the past of every clock that will read the fixtures, and never changes.
var signedAt = time.Date(2025, 11, 3, 9, 0, 0, 0, time.UTC)

// The image that all fixtures speak of. Its config and its layer are the two bytes `{}`, so a test can push it whole.
const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json",` +
	`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},` +
	`"layers":[{"mediaType":"application/vnd.oci.empty.v1+json",` +
	`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}],` +
	`"annotations":{"org.opencontainers.image.title":"the image of the proofs"}}`

const artifact = "A file that is signed as it is.\n"

var (
	folder string
	ours   = hexDigest(manifest)
	others = []string{hexDigest("another manifest"), hexDigest("a third manifest")}
)

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 2:
		folder = os.Args[1]
	case len(os.Args) == 3 && os.Args[1] == "--check":
		folder = os.Args[2]
		foreign()
		return
	default:
		log.Fatal("usage: signers [--check] FOLDER")
	}

	write("manifest.json", []byte(manifest))
	write("digest.txt", []byte("sha256:"+ours+"\n"))
	write("artifact.txt", []byte(artifact))

	byKey()
	keyless()
}

// foreign is what other implementations signed about the same image.
func foreign() {
	// DSSE calls the keyid a hint without meaning for security. sigstore-go yet passes over a signature whose keyid is none of
	// the fingerprints that ssh would print of its keys, and sigstore-js writes another.
	fixture{"js-p256"}.refusedByKey("ecdsa-p256")
	fixture{"js-p256-no-hint"}.acceptedByKey("ecdsa-p256")
	text, err := os.ReadFile(filepath.Join(folder, "js-keyless.trusted_root.json"))
	must(err)
	trusted, err := root.NewTrustedRootFromJSON(text)
	must(err)
	keylessFixture{fixture{"js-keyless"}, trusted}.accepted(workflow)
}

// byKey signs with plain keys, as `cosign sign --key` and `cosign attest --key` do.
func byKey() {
	image := statement(signPredicate, map[string]any{}, subject(ours))
	for _, kind := range kinds {
		signed("key-"+kind.name, kind.name, inToto, image).acceptedByKey(kind.name)
	}

	const p256 = "ecdsa-p256"
	empty := map[string]any{}
	signed("several-subjects", p256, inToto, statement(signPredicate, empty, subject(others[0]), subject(ours), subject(others[1]))).acceptedByKey(p256)
	signed("twice", p256, inToto, statement(signPredicate, empty, subject(ours), subject(ours))).acceptedByKey(p256)
	signed("other", p256, inToto, statement(signPredicate, empty, subject(others[0]))).refusedByKey(p256)
	signed("wrong-type", p256, "text/plain", image).refusedByKey(p256)

	all := attestations()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		attested := all[name]
		signed(name, p256, inToto, statement(attested.predicateType, attested.predicate, named("localhost:5000/team/app", ours))).acceptedByKey(p256)
	}

	message, err := sign.Bundle(&sign.PlainData{Data: []byte(artifact)}, key(p256), sign.BundleOptions{})
	must(err)
	bundled("message", message).acceptedByKeyAsArtifact(p256)

	simple(p256)
}

// simple signs as cosign did before bundles: the signature over the payload as it is, beside it and not around it.
func simple(kind string) {
	payload := []byte(`{"critical":{"identity":{"docker-reference":"localhost:5000/team/app"},` +
		`"image":{"docker-manifest-digest":"sha256:` + ours + `"},"type":"cosign container image signature"},"optional":null}`)
	write("simple.payload.json", payload)
	write("simple.signature.b64", []byte(base64.StdEncoding.EncodeToString(key(kind).signPlainly(payload))+"\n"))
}

// A bundle that was written, by its name.
type fixture struct{ name string }

func signed(name, kind, payloadType string, payload []byte) fixture {
	bundle, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: payloadType}, key(kind), sign.BundleOptions{})
	must(err)
	return bundled(name, bundle)
}

func bundled(name string, bundle *protobundle.Bundle) fixture {
	text, err := protojson.Marshal(bundle)
	must(err)
	write(name+".bundle.json", pretty(text))
	return fixture{name}
}

// pretty indents: protojson puts blanks where it pleases, so that nobody relies on them.
func pretty(text []byte) []byte {
	var dense, indented bytes.Buffer
	must(json.Compact(&dense, text))
	must(json.Indent(&indented, dense.Bytes(), "", "  "))
	return append(indented.Bytes(), '\n')
}

func write(name string, bytes []byte) {
	path := filepath.Join(folder, name)
	must(os.MkdirAll(filepath.Dir(path), 0o755))
	must(os.WriteFile(path, bytes, 0o644))
}

func hexDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func must(err error) {
	if err != nil {
		log.Output(2, fmt.Sprintf("signers: %v", err))
		os.Exit(1)
	}
}
