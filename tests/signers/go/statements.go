package main

import (
	"encoding/json"
	"time"
)

const (
	inToto        = "application/vnd.in-toto+json"
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
)

type about struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

func subject(digest string) about { return named("", digest) }

func named(name, digest string) about {
	return about{Name: name, Digest: map[string]string{"sha256": digest}}
}

func statement(predicateType string, predicate any, subjects ...about) []byte {
	text, err := json.Marshal(struct {
		Type          string  `json:"_type"`
		Subject       []about `json:"subject"`
		PredicateType string  `json:"predicateType"`
		Predicate     any     `json:"predicate"`
	}{"https://in-toto.io/Statement/v1", subjects, predicateType, predicate})
	must(err)
	return text
}

type attestation struct {
	predicateType string
	predicate     any
}

type object = map[string]any

func attestations() map[string]attestation {
	started, finished := signedAt.Add(-20*time.Second).Format(time.RFC3339), signedAt.Format(time.RFC3339)
	when := object{"scanStartedOn": started, "scanFinishedOn": finished}

	// What `trivy image --format json` prints, cut down. Trivy leaves Vulnerabilities out when there are none.
	trivy := func(found ...object) object {
		target := object{"Target": "localhost:5000/team/app (alpine 3.22.2)", "Class": "os-pkgs", "Type": "alpine"}
		if len(found) > 0 {
			target["Vulnerabilities"] = found
		}
		return object{"SchemaVersion": 2, "ArtifactName": "localhost:5000/team/app", "ArtifactType": "container_image", "Results": []object{target}}
	}
	scan := func(result object) attestation {
		return attestation{"https://cosign.sigstore.dev/attestation/vuln/v1", object{
			"invocation": object{"parameters": []string{"--format=json"}, "uri": "https://ci.example/run/9", "event_id": "9", "builder.id": "ci.example"},
			"scanner": object{
				"uri":     "pkg:github/aquasecurity/trivy@0.67.2",
				"version": "0.67.2",
				"db":      object{"uri": "", "version": "2"},
				"result":  result,
			},
			"metadata": when,
		}}
	}

	return map[string]attestation{
		"spdx": {"https://spdx.dev/Document", object{
			"spdxVersion":       "SPDX-2.3",
			"dataLicense":       "CC0-1.0",
			"SPDXID":            "SPDXRef-DOCUMENT",
			"name":              "localhost:5000/team/app",
			"documentNamespace": "https://sbom.example/team/app/" + ours,
			"creationInfo":      object{"created": finished, "creators": []string{"Tool: lazaretto-tests"}},
			"packages": []object{{
				"SPDXID": "SPDXRef-Package-libfoo", "name": "libfoo", "versionInfo": "1.0-r0",
				"downloadLocation": "NOASSERTION", "filesAnalyzed": false, "licenseConcluded": "NOASSERTION",
				"licenseDeclared": "MIT", "copyrightText": "NOASSERTION",
				"externalRefs": []object{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": "pkg:apk/alpine/libfoo@1.0-r0"}},
			}},
			"relationships": []object{{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Package-libfoo"}},
		}},
		"cyclonedx": {"https://cyclonedx.org/bom", object{
			"bomFormat":    "CycloneDX",
			"specVersion":  "1.6",
			"serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
			"version":      1,
			"metadata":     object{"timestamp": finished, "component": object{"type": "container", "name": "localhost:5000/team/app", "bom-ref": "app"}},
			"components":   []object{{"type": "library", "name": "libfoo", "version": "1.0-r0", "purl": "pkg:apk/alpine/libfoo@1.0-r0", "bom-ref": "libfoo"}},
		}},
		"vuln-clean": scan(trivy()),
		"vuln-high": scan(trivy(
			object{"VulnerabilityID": "CVE-2025-0001", "PkgName": "libfoo", "InstalledVersion": "1.0-r0", "FixedVersion": "1.1-r0", "Status": "fixed", "Severity": "HIGH"},
			object{"VulnerabilityID": "CVE-2025-0002", "PkgName": "libbar", "InstalledVersion": "2.3-r1", "Status": "affected", "Severity": "LOW"},
		)),
		"vulns-v02": {"https://in-toto.io/attestation/vulns/v0.2", object{
			"scanner": object{
				"uri":     "pkg:github/aquasecurity/trivy@0.67.2",
				"version": "0.67.2",
				"db":      object{"uri": "https://db.example/trivy", "version": "2", "lastUpdate": signedAt.Add(-3 * time.Hour).Format(time.RFC3339)},
				"result": []object{
					{"id": "CVE-2025-0001", "severity": []object{{"method": "nvd", "score": "high"}, {"method": "cvss_score", "score": "7.5"}}},
					{"id": "CVE-2025-0002", "severity": []object{{"method": "nvd", "score": "low"}}},
				},
			},
			"metadata": when,
		}},
		"vex": {"https://openvex.dev/ns", object{
			"@context":  "https://openvex.dev/ns/v0.2.0",
			"@id":       "https://vex.example/7",
			"author":    "builder@example.com",
			"timestamp": finished,
			"version":   1,
			"statements": []object{{
				"vulnerability": object{"name": "CVE-2025-0001"},
				"products":      []object{{"@id": "pkg:oci/app@sha256%3A" + ours + "?repository_url=localhost:5000/team/app"}},
				"status":        "not_affected",
				"justification": "vulnerable_code_not_in_execute_path",
			}},
		}},
	}
}
