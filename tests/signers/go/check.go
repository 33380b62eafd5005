package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

func (f fixture) acceptedByKey(kind string) {
	f.say(true, f.verifyByKey(kind, image()))
}

func (f fixture) refusedByKey(kind string) {
	f.say(false, f.verifyByKey(kind, image()))
}

func (f fixture) acceptedByKeyAsArtifact(kind string) {
	f.say(true, f.verifyByKey(kind, verify.WithArtifact(bytes.NewReader([]byte(artifact)))))
}

func (f fixture) verifyByKey(kind string, artifact verify.ArtifactPolicyOption) error {
	pair := key(kind)
	verifier, err := signature.LoadVerifierFromAlgorithmDetails(pair.GetPublicKey(), pair.details)
	must(err)
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	return f.verify(material, verify.NewPolicy(artifact, verify.WithKey()), verify.WithNoObserverTimestamps())
}

// What is asked of a keyless bundle: one log that knows the certificate, one that knows the signature, one proof of the time.
func (f fixture) verifyKeyless(trusted root.TrustedMaterial, identity, issuer string) error {
	expected, err := verify.NewShortCertificateIdentity(issuer, "", identity, "")
	must(err)
	return f.verify(trusted, verify.NewPolicy(image(), verify.WithCertificateIdentity(expected)),
		verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
}

func (f fixture) verify(material root.TrustedMaterial, policy verify.PolicyBuilder, options ...verify.VerifierOption) error {
	read, err := bundle.LoadJSONFromPath(filepath.Join(folder, f.name+".bundle.json"))
	if err != nil {
		return err
	}
	verifier, err := verify.NewVerifier(material, options...)
	must(err)
	_, err = verifier.Verify(read, policy)
	return err
}

func image() verify.ArtifactPolicyOption {
	digest, err := hex.DecodeString(ours)
	must(err)
	return verify.WithArtifactDigest("sha256", digest)
}

func (f fixture) say(accepted bool, err error) {
	if (err == nil) != accepted {
		must(fmt.Errorf("%s: accepted should be %t, and sigstore-go says: %v", f.name, accepted, err))
	}
	if err == nil {
		fmt.Printf("%-28s accepted\n", f.name)
	} else {
		fmt.Printf("%-28s refused: %v\n", f.name, err)
	}
}
