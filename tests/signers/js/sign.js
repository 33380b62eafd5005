// Writes the fixtures of tests/fixtures/proof that the JavaScript implementation of Sigstore signs.
//
//     node sign.js FOLDER
//
// FOLDER has the keys and the statement already, made by ../go. What was signed is put before @sigstore/verify, and so are the
// keyless fixtures of sigstore-go: two implementations that do not know each other then agree on them.
"use strict";

// One time for everything, that of ../go/main.go. @sigstore/mock asks the clock for its roots, so the clock has to stand.
const at = Date.UTC(2025, 10, 3, 9);
const founded = new Date(Date.UTC(2025, 0, 1));
const RealDate = Date;
globalThis.Date = class extends RealDate {
  constructor(...given) {
    super(...(given.length === 0 ? [at] : given));
  }
  static now() {
    return at;
  }
};

const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { bundleFromJSON, bundleToJSON } = require("@sigstore/bundle");
const mock = require("@sigstore/mock");
const { HashAlgorithm, PublicKeyDetails, TrustedRoot } = require("@sigstore/protobuf-specs");
const { DSSEBundleBuilder, FulcioSigner, RekorWitness, TSAWitness } = require("@sigstore/sign");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const folder = process.argv[2];
const inToto = "application/vnd.in-toto+json";
const issuer = "https://issuer.example";
const workflow = "https://git.example/team/app/.ci/release.yml@refs/heads/main";

const read = (name) => fs.readFileSync(path.join(folder, name), "utf8");
const write = (name, value) => fs.writeFileSync(path.join(folder, name), JSON.stringify(value, null, 2) + "\n");
const statement = () => Buffer.from(JSON.parse(read("key-ecdsa-p256.bundle.json")).dsseEnvelope.payload, "base64");

// A key in a file, as @sigstore/sign wants a signer. The hint is optional; @sigstore/sign repeats it as the envelope's keyid.
class FileSigner {
  constructor(name, hinting) {
    this.key = crypto.createPrivateKey(read(name));
    this.hinting = hinting;
  }
  async sign(data) {
    const key = crypto.createPublicKey(this.key);
    const hint = crypto.createHash("sha256").update(key.export({ format: "der", type: "spki" })).digest("base64");
    return {
      signature: crypto.sign("sha256", data, this.key),
      key: { $case: "publicKey", hint: this.hinting ? hint : undefined, publicKey: key.export({ format: "pem", type: "spki" }) },
    };
  }
}

async function byKey() {
  for (const [name, hinting] of [["js-p256", true], ["js-p256-no-hint", false]]) {
    const builder = new DSSEBundleBuilder({ signer: new FileSigner("keys/ecdsa-p256.pem", hinting), witnesses: [] });
    const bundle = await builder.create({ data: statement(), type: inToto });
    write(`${name}.bundle.json`, bundleToJSON(bundle));
  }

  const publicKey = {
    rawBytes: crypto.createPublicKey(read("keys/ecdsa-p256.pub.pem")).export({ format: "der", type: "spki" }),
    keyDetails: PublicKeyDetails.PKIX_ECDSA_P256_SHA_256,
    validFor: { start: new Date(0) },
  };
  const nothing = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
  const material = toTrustMaterial(nothing, () => ({ publicKey: keyOf(publicKey), validFor: () => true }));
  const verifier = new Verifier(material, { ctlogThreshold: 0, tlogThreshold: 0, timestampThreshold: 0 });
  for (const name of ["js-p256", "js-p256-no-hint", "key-ecdsa-p256"]) {
    verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(read(`${name}.bundle.json`)))));
    console.log(`${name.padEnd(28)} accepted`);
  }
}

const keyOf = (key) => crypto.createPublicKey({ key: key.rawBytes, format: "der", type: "spki" });

// Rekor writes down digests of an envelope, not the envelope that it was given. The mock writes down what it is given.
function asRekorStores(body) {
  const { envelope, verifiers } = JSON.parse(body).spec.proposedContent;
  const { payload, signatures } = JSON.parse(envelope);
  const digest = (data) => ({ algorithm: "sha256", value: crypto.createHash("sha256").update(data).digest("hex") });
  return JSON.stringify({
    apiVersion: "0.0.1",
    kind: "dsse",
    spec: {
      envelopeHash: digest(envelope),
      payloadHash: digest(Buffer.from(payload, "base64")),
      signatures: [{ signature: signatures[0].sig, verifier: verifiers[0] }],
    },
  });
}

// The handlers of @sigstore/mock behind a port of this machine.
async function serve(...handlers) {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const handler = handlers.find(({ path }) => path === request.url);
    const answer = await handler.fn(body);
    response.writeHead(answer.statusCode, { "Content-Type": answer.contentType ?? "text/plain" }).end(answer.response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return server;
}

async function keyless() {
  const pair = () => crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
  const clock = new Date();
  const ctlog = await mock.initializeCTLog(pair(), clock);
  const ca = await mock.initializeCA(pair(), ctlog, clock);
  const tlog = await mock.initializeTLog("https://rekor.localhost", pair(), clock);
  const tsa = await mock.initializeTSA(pair(), clock);
  const rekor = mock.rekorHandler(tlog);
  const server = await serve(mock.fulcioHandler(ca), mock.tsaHandler(tsa), {
    path: rekor.path,
    fn: (body) => rekor.fn(asRekorStores(body)),
  });
  const url = `http://127.0.0.1:${server.address().port}`;

  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const token = `${part({ alg: "none" })}.${part({ iss: issuer, sub: workflow })}.`;
  const builder = new DSSEBundleBuilder({
    signer: new FulcioSigner({ fulcioBaseURL: url, identityProvider: { getToken: async () => token } }),
    witnesses: [new RekorWitness({ rekorBaseURL: url }), new TSAWitness({ tsaBaseURL: url })],
  });
  const bundle = await builder.create({ data: statement(), type: inToto });
  server.close();
  write("js-keyless.bundle.json", bundleToJSON(bundle));

  const authority = (uri, commonName, ...certificates) => ({
    subject: { organization: "sigstore.mock", commonName },
    uri,
    certChain: { certificates: certificates.map((rawBytes) => ({ rawBytes })) },
    validFor: { start: founded },
  });
  const log = (baseUrl, { publicKey }) => ({
    baseUrl,
    hashAlgorithm: HashAlgorithm.SHA2_256,
    publicKey: { rawBytes: publicKey, keyDetails: PublicKeyDetails.PKIX_ECDSA_P256_SHA_256, validFor: { start: founded } },
    logId: { keyId: crypto.createHash("sha256").update(publicKey).digest() },
  });
  const trusted = {
    mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    certificateAuthorities: [authority("https://fulcio.localhost", "sigstore", ca.rootCertificate)],
    timestampAuthorities: [authority("https://timestamps.localhost", "tsa", tsa.intCertificate, tsa.rootCertificate)],
    tlogs: [log("https://rekor.localhost", tlog)],
    ctlogs: [log("https://ct.localhost", ctlog)],
  };
  write("js-keyless.trusted_root.json", TrustedRoot.toJSON(trusted));
}

function check(name, root, identity, accepted) {
  const material = toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(read(`${root}.trusted_root.json`))), {});
  let refusal;
  try {
    const entity = toSignedEntity(bundleFromJSON(JSON.parse(read(`${name}.bundle.json`))));
    new Verifier(material).verify(entity, { subjectAlternativeName: `^${identity}$`, extensions: { issuer } });
  } catch (error) {
    refusal = error;
  }
  if ((refusal === undefined) !== accepted) {
    throw new Error(`${name}: accepted should be ${accepted}, and @sigstore/verify says otherwise`, { cause: refusal });
  }
  console.log(`${name.padEnd(28)} ${refusal ? `refused: ${refusal.message}` : "accepted"}`);
}

async function main() {
  await byKey();
  await keyless();
  const email = "builder@example.com";
  check("js-keyless", "js-keyless", workflow, true);
  check("keyless", "keyless", email, true);
  check("keyless-uri", "keyless", workflow, true);
  check("keyless-integrated-time", "keyless", email, true);
  // Not keyless-rekor-v2: this version looks for the digest of the payload in the entry, where Rekor has that of the whole of
  // what was signed.
  check("keyless", "keyless-other-root", email, false);
  check("keyless", "keyless", workflow, false);
  for (const name of ["no-time", "expired", "rekor-v2-expired", "no-sct", "no-inclusion", "other-entry"]) {
    check(`keyless-${name}`, "keyless", email, false);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
