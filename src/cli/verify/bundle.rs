//! A bundle from a file against a key or a trusted root: no network at all.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::{
    cli::{
        Exit, input,
        output::{self, Cell, Colour},
    },
    image::Digest,
    proof::{self, Bundle, Identity, PublicKey, Refusal, Said, Signer, Step, Subject, TrustRoot, bundle, key, keyless},
};

/// Bytes that an artifact may have.
const ARTIFACT_LIMIT: usize = 256 << 20;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("trust").args(["key", "trusted_root"]),
    group = ArgGroup::new("about").args(["digest", "artifact"]),
)]
pub(super) struct BundleArguments {
    /// The Sigstore bundle; `-` reads standard input
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "image",
        conflicts_with = "image",
        requires = "trust",
        requires = "about",
        help_heading = "A bundle"
    )]
    bundle: Option<PathBuf>,
    /// The public key in PEM
    #[arg(long, value_name = "FILE", requires = "bundle", help_heading = "A bundle")]
    key: Option<PathBuf>,
    /// The trusted root in JSON, for a bundle with a certificate
    #[arg(
        long,
        value_name = "FILE",
        requires = "certificate_identity",
        requires = "certificate_oidc_issuer",
        requires = "bundle",
        help_heading = "A bundle"
    )]
    trusted_root: Option<PathBuf>,
    /// Whom the certificate has to be issued to: an e-mail address or a URI
    #[arg(long, value_name = "IDENTITY", requires = "trusted_root", help_heading = "A bundle")]
    certificate_identity: Option<String>,
    /// The OIDC issuer that the certificate has to name
    #[arg(long, value_name = "URL", requires = "trusted_root", help_heading = "A bundle")]
    certificate_oidc_issuer: Option<String>,
    /// What the bundle has to be about
    #[arg(long, value_name = "DIGEST", requires = "bundle", help_heading = "A bundle")]
    digest: Option<Digest>,
    /// The file that the bundle has to be about
    #[arg(long, value_name = "FILE", requires = "bundle", help_heading = "A bundle")]
    artifact: Option<PathBuf>,
}

/// One check.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    step: &'static str,
    result: Ended,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Ended {
    Passed,
    Failed,
    NotReached,
}

/// What came of all of them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    verified: bool,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicate_type: Option<String>,
    checks: Vec<Check>,
}

/// What is trusted.
enum Trust {
    Key(PublicKey),
    Keyless(Box<TrustRoot>, Identity),
}

impl Trust {
    fn read(arguments: &BundleArguments) -> anyhow::Result<Self> {
        match (&arguments.key, &arguments.trusted_root) {
            (Some(path), _) => {
                let pem = input::read(path, key::MAX_PEM_BYTES)?;
                Ok(Self::Key(PublicKey::from_pem(&pem).with_context(|| format!("cannot read {}", input::name(path)))?))
            }
            (None, Some(path)) => {
                let json = input::read(path, keyless::MAX_ROOT_BYTES)?;
                let root = TrustRoot::read(json.as_bytes()).with_context(|| format!("cannot read {}", input::name(path)))?;
                let exact = |text: &Option<String>| keyless::Wanted::Exact(text.clone().unwrap_or_default());
                let identity =
                    Identity { issuer: exact(&arguments.certificate_oidc_issuer), subject: exact(&arguments.certificate_identity) };
                Ok(Self::Keyless(Box::new(root), identity))
            }
            (None, None) => bail!("give --key or --trusted-root"),
        }
    }

    const fn steps(&self) -> &'static [Step] {
        match self {
            Self::Key(_) => &Step::KEY,
            Self::Keyless(..) => &Step::KEYLESS,
        }
    }

    fn verify(&self, bytes: &[u8], subject: Subject<'_>) -> Result<(Signer, Option<String>), Refusal> {
        let bundle = Bundle::read(bytes)?;
        let attested = match self {
            Self::Key(key) => proof::with_key(&bundle, key, subject)?,
            Self::Keyless(root, identity) => {
                let attested = proof::keyless(&bundle, root, subject)?;
                identity.expect(&attested.signer)?;
                attested
            }
        };
        let predicate_type = match attested.said {
            Said::Statement(statement) => Some(statement.predicate_type),
            Said::Signature => None,
        };
        Ok((attested.signer, predicate_type))
    }
}

pub(super) fn run(arguments: &BundleArguments, format: output::Format) -> anyhow::Result<Exit> {
    let trust = Trust::read(arguments)?;
    let Some(path) = &arguments.bundle else { bail!("give --bundle or an image") };
    let text = input::read(path, bundle::MAX_BYTES)?;
    let artifact = arguments.artifact.as_ref().map(|path| input::read_bytes(path, ARTIFACT_LIMIT)).transpose()?;
    let subject = match (&artifact, &arguments.digest) {
        (Some(bytes), _) => Subject::Artifact(bytes),
        (None, Some(digest)) => Subject::Digest(digest),
        (None, None) => bail!("give --digest or --artifact"),
    };
    let found = trust.verify(text.as_bytes(), subject);
    let report = report(trust.steps(), subject.digest().to_string(), found);
    match format {
        output::Format::Json => output::print_json(&report)?,
        output::Format::Table => {
            output::print(&output::table(&["CHECK", "RESULT", "DETAIL"], &rows(&report), output::coloured()))?;
        }
    }
    Ok(if report.verified { Exit::Done } else { Exit::Refused })
}

/// What failed hides what would have come after it.
fn report(steps: &[Step], digest: String, found: Result<(Signer, Option<String>), Refusal>) -> Report {
    let failed = found.as_ref().err();
    let check = |step: &Step| {
        let (result, detail) = match failed {
            Some(refusal) if *step == refusal.step => (Ended::Failed, refusal.why.clone()),
            Some(refusal) if *step > refusal.step => (Ended::NotReached, String::new()),
            _ => (Ended::Passed, step.says().to_owned()),
        };
        Check { step: step.as_str(), result, detail }
    };
    let checks = steps.iter().map(check).collect();
    let verified = failed.is_none();
    let (signer, predicate_type) = found.map_or((None, None), |(signer, predicate_type)| (Some(signer.to_string()), predicate_type));
    Report { verified, digest, signer, predicate_type, checks }
}

fn rows(report: &Report) -> Vec<Vec<Cell>> {
    let row = |check: &Check| {
        let (word, colour) = match check.result {
            Ended::Passed => ("Passed", Colour::Green),
            Ended::Failed => ("Failed", Colour::Red),
            Ended::NotReached => ("NotReached", Colour::Plain),
        };
        vec![check.step.into(), Cell::new(word, colour), check.detail.as_str().into()]
    };
    let mut rows: Vec<Vec<Cell>> = report.checks.iter().map(row).collect();
    let more = [("Signer", &report.signer), ("Predicate", &report.predicate_type)];
    rows.extend(more.into_iter().filter_map(|(name, text)| Some(vec![name.into(), "".into(), text.as_deref()?.into()])));
    rows
}
