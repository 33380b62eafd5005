package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/digitorus/timestamp"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	tilesnote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	rekorutil "github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"
)

// How long the authorities' own certificates and keys hold. Long, as with Sigstore's public instance: it is the leaf that is
// short-lived.
var (
	foundedAt = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	closedAt  = time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)
)

// authority is a whole Sigstore: Fulcio with its certificate log, Rekor in both versions, and a timestamp authority.
//
// sigstore-go has one for its own tests, VirtualSigstore, which will not do: its certificates carry no SCT and e-mail addresses
// only, its checkpoints speak of another tree than its inclusion proofs, its roots hold for hours, and it gives no bundles. So
// this one stands behind the client of sigstore-go that makes the real ones, pkg/sign, and uses the same libraries as the
// real servers for what they sign.
type authority struct {
	root, intermediate        *x509.Certificate
	intermediateKey           *ecdsa.PrivateKey
	stampRoot, stamp          *x509.Certificate
	stampKey                  *ecdsa.PrivateKey
	rekorKey, tilesKey, ctKey *ecdsa.PrivateKey
}

func found(name string) *authority {
	a := &authority{intermediateKey: p256(), stampKey: p256(), rekorKey: p256(), tilesKey: p256(), ctKey: p256()}
	subject := func(what string) pkix.Name {
		return pkix.Name{CommonName: what, Organization: []string{name}}
	}
	of := func(what string, usage x509.KeyUsage, extended ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial(), Subject: subject(what), NotBefore: foundedAt, NotAfter: closedAt,
			KeyUsage: usage, ExtKeyUsage: extended, BasicConstraintsValid: true, IsCA: usage&x509.KeyUsageCertSign != 0,
		}
	}

	rootKey, stampRootKey := p256(), p256()
	template := of("root", x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	a.root = certify(template, template, &rootKey.PublicKey, rootKey)
	template = of("intermediate", x509.KeyUsageCertSign|x509.KeyUsageCRLSign, x509.ExtKeyUsageCodeSigning)
	template.MaxPathLenZero = true
	a.intermediate = certify(template, a.root, &a.intermediateKey.PublicKey, rootKey)

	template = of("timestamps root", x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	a.stampRoot = certify(template, template, &stampRootKey.PublicKey, stampRootKey)
	// RFC 3161 wants this usage alone and critical, which the template cannot say by itself.
	template = of("timestamps", x509.KeyUsageDigitalSignature)
	template.SubjectKeyId = identifier(&a.stampKey.PublicKey)
	timeStamping, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	must(err)
	template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: timeStamping}}
	a.stamp = certify(template, a.stampRoot, &a.stampKey.PublicKey, stampRootKey)
	return a
}

// trusted is what a verifier has to know of the authority: trusted_root.json.
func (a *authority) trusted() *root.TrustedRoot {
	logs := func(keys map[string]*ecdsa.PrivateKey) map[string]*root.TransparencyLog {
		found := map[string]*root.TransparencyLog{}
		for base, key := range keys {
			id := logID(key)
			found[hex.EncodeToString(id)] = &root.TransparencyLog{
				BaseURL: base, ID: id, ValidityPeriodStart: foundedAt, HashFunc: crypto.SHA256, PublicKey: key.Public(), SignatureHashFunc: crypto.SHA256,
			}
		}
		return found
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: a.root, Intermediates: []*x509.Certificate{a.intermediate}, ValidityPeriodStart: foundedAt, URI: "https://fulcio.localhost",
		}},
		logs(map[string]*ecdsa.PrivateKey{"https://ct.localhost": a.ctKey}),
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: a.stampRoot, Leaf: a.stamp, ValidityPeriodStart: foundedAt, URI: "https://timestamps.localhost",
		}},
		logs(map[string]*ecdsa.PrivateKey{"https://" + rekorHost: a.rekorKey, "https://" + tilesHost: a.tilesKey}))
	must(err)
	return trusted
}

// A certificate's wishes; the authority is its sign.CertificateProvider.
type leaf struct {
	*authority
	identity, issuer string
	from             time.Time
	withoutSCT       bool
}

// GetCertificate certifies a key for ten minutes, as Fulcio does.
func (l leaf) GetCertificate(_ context.Context, pair sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	issuerText, err := asn1.MarshalWithParams(l.issuer, "utf8")
	must(err)
	public := pair.GetPublicKey()
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: l.from, NotAfter: l.from.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		SubjectKeyId: identifier(public),
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(l.issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: issuerText},
		},
	}
	if strings.Contains(l.identity, "://") {
		uri, err := url.Parse(l.identity)
		must(err)
		template.URIs = []*url.URL{uri}
	} else {
		template.EmailAddresses = []string{l.identity}
	}

	certificate := certify(template, l.intermediate, public, l.intermediateKey)
	if l.withoutSCT {
		return certificate.Raw, nil
	}
	// The log signs the certificate as it is without the log's own word (RFC 6962, 3.2), which is the one just made.
	template.ExtraExtensions = append(template.ExtraExtensions, l.logged(certificate, l.from))
	certificate = certify(template, l.intermediate, public, l.intermediateKey)
	return certificate.Raw, nil
}

// logged is the extension with the certificate log's word.
func (a *authority) logged(certificate *x509.Certificate, at time.Time) pkix.Extension {
	chain, err := ctx509.ParseCertificates(append(bytes.Clone(certificate.Raw), a.intermediate.Raw...))
	must(err)
	millis := uint64(at.UnixMilli())
	entry := &ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			EntryType: ct.PrecertLogEntryType, Timestamp: millis,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(chain[1].RawSubjectPublicKeyInfo), TBSCertificate: chain[0].RawTBSCertificate},
		},
	}
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: millis}
	copy(sct.LogID.KeyID[:], logID(a.ctKey))
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *entry})
	must(err)
	signed, err := tls.CreateSignature(*a.ctKey, tls.SHA256, input)
	must(err)
	sct.Signature = ct.DigitallySigned(signed)

	one, err := tls.Marshal(sct)
	must(err)
	list, err := tls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: one}}})
	must(err)
	value, err := asn1.Marshal(list)
	must(err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value}
}

const (
	rekorHost = "rekor.localhost"
	tilesHost = "rekor-tiles.localhost"
)

// rekor is Rekor's first version as sign.Rekor calls it.
type rekor struct {
	*authority
	at time.Time
}

func (r rekor) client() sign.Transparency {
	return sign.NewRekor(&sign.RekorOptions{Client: r})
}

func (r rekor) GetLogEntryByUUID(*entries.GetLogEntryByUUIDParams, ...entries.ClientOption) (*entries.GetLogEntryByUUIDOK, error) {
	return nil, fmt.Errorf("nothing is asked for twice")
}

func (r rekor) CreateLogEntry(params *entries.CreateLogEntryParams, _ ...entries.ClientOption) (*entries.CreateLogEntryCreated, error) {
	entry, err := types.CreateVersionedEntry(params.ProposedEntry)
	must(err)
	body, err := types.CanonicalizeEntry(params.Context, entry)
	must(err)

	// Rekor's log goes on from older trees: the entry has one index in the whole log and another in its tree.
	index, indexInTree, id := int64(4242), int64(1), hex.EncodeToString(logID(r.rekorKey))
	payload, err := json.Marshal(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: r.at.Unix(), LogIndex: index, LogID: id,
	})
	must(err)
	canonical, err := jsoncanonicalizer.Transform(payload)
	must(err)
	signer := signerOf(r.rekorKey)
	promise, err := signer.SignMessage(bytes.NewReader(canonical))
	must(err)

	proof := included(body)
	checkpoint, err := rekorutil.CreateAndSignCheckpoint(params.Context, rekorHost, 1193050959916656506, uint64(proof.size), proof.root, signer)
	must(err)
	var hashes []string
	for _, hash := range proof.hashes {
		hashes = append(hashes, hex.EncodeToString(hash))
	}
	rootHash, envelope := hex.EncodeToString(proof.root), string(checkpoint)
	integrated := r.at.Unix()
	const uuid = "the only one"
	return &entries.CreateLogEntryCreated{ETag: uuid, Payload: models.LogEntry{uuid: {
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: &integrated, LogID: &id, LogIndex: &index,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: promise,
			InclusionProof: &models.InclusionProof{
				Checkpoint: &envelope, Hashes: hashes, LogIndex: &indexInTree, RootHash: &rootHash, TreeSize: &proof.size,
			},
		},
	}}}, nil
}

// tiled is Rekor's second version: no time of its own and no promise, only the proof.
type tiled struct{ *authority }

func (t tiled) client() sign.Transparency {
	return sign.NewRekor(&sign.RekorOptions{Version: 2, ClientV2: t})
}

func (t tiled) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	request, ok := entry.(*tiles.HashedRekordRequestV002)
	if !ok {
		return nil, fmt.Errorf("unexpected entry: %T", entry)
	}
	text, err := protojson.Marshal(&tiles.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tiles.Spec{
		Spec: &tiles.Spec_HashedRekordV002{HashedRekordV002: &tiles.HashedRekordLogEntryV002{
			Data:      &v1.HashOutput{Algorithm: v1.HashAlgorithm_SHA2_256, Digest: request.Digest},
			Signature: request.Signature,
		}},
	}})
	must(err)
	body, err := jsoncanonicalizer.Transform(text)
	must(err)

	proof := included(body)
	signer, err := tilesnote.NewNoteSigner(ctx, tilesHost, signerOf(t.tilesKey))
	must(err)
	checkpoint, err := note.Sign(&note.Note{
		Text: string(formats.Checkpoint{Origin: tilesHost, Size: uint64(proof.size), Hash: proof.root}.Marshal()),
	}, signer)
	must(err)
	return &protorekor.TransparencyLogEntry{
		LogIndex: 1, LogId: &v1.LogId{KeyId: logID(t.tilesKey)},
		KindVersion: &protorekor.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex: 1, TreeSize: proof.size, RootHash: proof.root, Hashes: proof.hashes, Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)},
		},
		CanonicalizedBody: body,
	}, nil
}

type inclusion struct {
	root   []byte
	hashes [][]byte
	size   int64
}

// included puts a body into a tree of three, as the second, so that its proof has a neighbour on either side.
func included(body []byte) inclusion {
	tree := rfc6962.DefaultHasher
	before, after := tree.HashLeaf([]byte("before")), tree.HashLeaf([]byte("after"))
	root := tree.HashChildren(tree.HashChildren(before, tree.HashLeaf(body)), after)
	return inclusion{root: root, hashes: [][]byte{before, after}, size: 3}
}

// stamps is the timestamp authority as sign.TimestampAuthority calls it, with a clock that stands.
type stamps struct {
	*authority
	at time.Time
}

func (s stamps) client() *sign.TimestampAuthority {
	return sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: "https://timestamps.localhost/api/v1/timestamp", Transport: s})
}

func (s stamps) RoundTrip(request *http.Request) (*http.Response, error) {
	asked, err := io.ReadAll(request.Body)
	must(err)
	query, err := timestamp.ParseRequest(asked)
	must(err)
	answer, err := (&timestamp.Timestamp{
		HashAlgorithm: query.HashAlgorithm, HashedMessage: query.HashedMessage, Nonce: query.Nonce, Time: s.at,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: query.Certificates,
	}).CreateResponseWithOpts(s.stamp, s.stampKey, crypto.SHA256)
	must(err)
	return &http.Response{StatusCode: http.StatusCreated, Body: io.NopCloser(bytes.NewReader(answer)), Request: request}, nil
}

func p256() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return key
}

func signerOf(key *ecdsa.PrivateKey) signature.Signer {
	signer, err := signature.LoadECDSASignerVerifier(key, crypto.SHA256)
	must(err)
	return signer
}

func logID(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(err)
	sum := sha256.Sum256(der)
	return sum[:]
}

func identifier(public crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	must(err)
	sum := sha1.Sum(der) // only a name
	return sum[:]
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(err)
	return number
}

func certify(template, parent *x509.Certificate, public crypto.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	must(err)
	certificate, err := x509.ParseCertificate(der)
	must(err)
	return certificate
}
