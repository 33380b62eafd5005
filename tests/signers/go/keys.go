package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

type kind struct {
	name      string
	algorithm protocommon.PublicKeyDetails
	generate  func() (crypto.Signer, error)
}

var kinds = []kind{
	{"ecdsa-p256", protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
	{"ecdsa-p384", protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }},
	{"ed25519", protocommon.PublicKeyDetails_PKIX_ED25519, func() (crypto.Signer, error) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}},
	{"rsa-2048", protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }},
	{"rsa-3072", protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) }},
}

// A key as sign.Bundle wants it. sigstore-go's own pair is made anew at every signature and cannot be kept, so this one says
// for a key in a file what that says for its own: same hash, same hint.
type pair struct {
	private crypto.Signer
	details signature.AlgorithmDetails
}

var kept = map[string]*pair{}

// key takes a key from the folder, or makes it and puts it there.
func key(name string) *pair {
	if known, ok := kept[name]; ok {
		return known
	}
	for _, kind := range kinds {
		if kind.name == name {
			details, err := signature.GetAlgorithmDetails(kind.algorithm)
			must(err)
			kept[name] = &pair{private: private(kind), details: details}
			return kept[name]
		}
	}
	must(fmt.Errorf("no such kind of key: %s", name))
	return nil
}

func private(kind kind) crypto.Signer {
	file := filepath.Join("keys", kind.name+".pem")
	text, err := os.ReadFile(filepath.Join(folder, file))
	if err == nil {
		block, _ := pem.Decode(text)
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		must(err)
		return parsed.(crypto.Signer)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		must(err)
	}

	made, err := kind.generate()
	must(err)
	der, err := x509.MarshalPKCS8PrivateKey(made)
	must(err)
	write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	public, err := cryptoutils.MarshalPublicKeyToPEM(made.Public())
	must(err)
	write(filepath.Join("keys", kind.name+".pub.pem"), public)
	return made
}

func (p *pair) GetHashAlgorithm() protocommon.HashAlgorithm { return p.details.GetProtoHashType() }

func (p *pair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return p.details.GetSignatureAlgorithm()
}

func (p *pair) GetHint() []byte {
	der, err := x509.MarshalPKIXPublicKey(p.private.Public())
	must(err)
	sum := sha256.Sum256(der)
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

func (p *pair) GetKeyAlgorithm() string {
	switch p.details.GetKeyType() {
	case signature.ECDSA:
		return "ECDSA"
	case signature.RSA:
		return "RSA"
	default:
		return "ED25519"
	}
}

func (p *pair) GetPublicKey() crypto.PublicKey { return p.private.Public() }

func (p *pair) GetPublicKeyPem() (string, error) {
	text, err := cryptoutils.MarshalPublicKeyToPEM(p.private.Public())
	return string(text), err
}

func (p *pair) SignData(_ context.Context, data []byte) ([]byte, []byte, error) {
	hash := p.details.GetHashType()
	if hash != crypto.Hash(0) { // plain Ed25519 hashes by itself
		hasher := hash.New()
		hasher.Write(data)
		data = hasher.Sum(nil)
	}
	signed, err := p.private.Sign(rand.Reader, data, hash)
	return signed, data, err
}

// signPlainly uses nothing of Sigstore's.
func (p *pair) signPlainly(data []byte) []byte {
	sum := sha256.Sum256(data)
	signed, err := ecdsa.SignASN1(rand.Reader, p.private.(*ecdsa.PrivateKey), sum[:])
	must(err)
	return signed
}
