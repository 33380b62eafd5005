//! What is said of each workload: as JSON whose fields stay, and as a table.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
};

use serde::Serialize;

use crate::{
    api::Mode,
    cli::{
        Exit,
        output::{self, Cell, Colour},
    },
};

/// Lines that are listed at the most; what lies beyond is counted.
const MOST_LINES: usize = 10_000;

/// Yes, not known, or no: the words of `lazaretto check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Answer {
    Admit,
    Later,
    Refuse,
}

impl Answer {
    /// How the program ends on it.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Admit => Exit::Done,
            Self::Later => Exit::NotYet,
            Self::Refuse => Exit::Refused,
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether something more would be refused.
    pub(super) answer: Answer,
    pods: Count,
    templates: Count,
    refused: Vec<Line>,
    not_known: Vec<Line>,
    refused_already: Vec<Line>,
    left_out: usize,
    excluded_namespaces: BTreeSet<String>,
    #[serde(skip)]
    places: HashMap<Key, usize>,
}

/// Namespace, workload, container, image, and what is said of it.
type Key = (Verdict, [String; 4], Vec<Said>);

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    judged: usize,
    refused: usize,
    not_known: usize,
    refused_already: usize,
}

/// What would become of an image; what weighs more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Verdict {
    NotKnown,
    Refused,
    Already,
}

/// What came of one image.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// None where nothing changes.
    pub(super) verdict: Option<Verdict>,
    /// Its digest, as far as that is known.
    pub(super) digest: Option<String>,
    /// The policies that say so.
    pub(super) policies: Vec<Said>,
}

/// What one policy says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Said {
    /// Its name.
    pub(super) policy: String,
    /// The mode that it is in, or that the file gives it.
    pub(super) mode: Mode,
    /// Why.
    pub(super) reason: String,
}

/// Who names images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearer {
    Pod,
    Template,
}

/// One image of one workload.
#[derive(Debug, Serialize)]
struct Line {
    namespace: String,
    workload: String,
    container: String,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Running pods that have it.
    pods: usize,
    /// The workload's template names it.
    template: bool,
    policies: Vec<Said>,
}

impl Report {
    /// Nothing is judged yet.
    pub(super) fn new(excluded_namespaces: BTreeSet<String>) -> Self {
        Self {
            answer: Answer::Admit,
            pods: Count::default(),
            templates: Count::default(),
            refused: Vec::new(),
            not_known: Vec::new(),
            refused_already: Vec::new(),
            left_out: 0,
            excluded_namespaces,
            places: HashMap::new(),
        }
    }

    /// Takes in a pod or a template with what came of its images: container, image, finding.
    pub(super) fn add<'a>(
        &mut self,
        bearer: Bearer,
        namespace: &str,
        workload: &str,
        images: impl Iterator<Item = (&'a str, &'a str, impl Borrow<Found>)>,
    ) {
        let mut worst = None;
        for (container, image, found) in images {
            let found: &Found = found.borrow();
            worst = worst.max(found.verdict);
            if let Some(verdict) = found.verdict {
                self.line(bearer, verdict, [namespace, workload, container, image], found);
            }
        }
        let count = match bearer {
            Bearer::Pod => &mut self.pods,
            Bearer::Template => &mut self.templates,
        };
        count.judged += 1;
        match worst {
            None => {}
            Some(Verdict::NotKnown) => count.not_known += 1,
            Some(Verdict::Refused) => count.refused += 1,
            Some(Verdict::Already) => count.refused_already += 1,
        }
    }

    fn line(&mut self, bearer: Bearer, verdict: Verdict, place: [&str; 4], found: &Found) {
        let lines = match verdict {
            Verdict::NotKnown => &mut self.not_known,
            Verdict::Refused => &mut self.refused,
            Verdict::Already => &mut self.refused_already,
        };
        let key = (verdict, place.map(str::to_owned), found.policies.clone());
        let at = match self.places.get(&key) {
            Some(at) => *at,
            None if lines.len() >= MOST_LINES => {
                self.left_out += 1;
                return;
            }
            None => {
                let [namespace, workload, container, image] = place.map(str::to_owned);
                let (digest, policies) = (found.digest.clone(), found.policies.clone());
                lines.push(Line { namespace, workload, container, image, digest, pods: 0, template: false, policies });
                self.places.insert(key, lines.len() - 1);
                lines.len() - 1
            }
        };
        let Some(line) = lines.get_mut(at) else { return };
        line.pods += usize::from(bearer == Bearer::Pod);
        line.template |= bearer == Bearer::Template;
    }

    /// All is judged.
    pub(super) fn end(mut self) -> Self {
        self.answer = match (self.refused.is_empty(), self.not_known.is_empty()) {
            (false, _) => Answer::Refuse,
            (true, false) => Answer::Later,
            (true, true) => Answer::Admit,
        };
        for lines in [&mut self.refused, &mut self.not_known, &mut self.refused_already] {
            lines.sort_by(|a, b| {
                let key = |line: &Line| (line.namespace.clone(), line.workload.clone(), line.container.clone(), line.image.clone());
                key(a).cmp(&key(b))
            });
        }
        self
    }

    /// For people; empty where there is nothing to list.
    pub(super) fn table(&self, all: bool, coloured: bool) -> String {
        let lists = [
            (&self.refused, "refused", Colour::Red),
            (&self.not_known, "not known", Colour::Yellow),
            (&self.refused_already, "already", Colour::Plain),
        ];
        let shown = if all { lists.len() } else { lists.len() - 1 };
        let rows: Vec<Vec<Cell>> = lists[..shown]
            .iter()
            .flat_map(|(lines, verdict, colour)| lines.iter().map(|line| line.row(Cell::new(verdict, *colour))))
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        output::table(&["NAMESPACE", "WORKLOAD", "CONTAINER", "IMAGE", "PODS", "VERDICT", "WHY"], &rows, coloured)
    }

    /// What it comes to, in words.
    pub(super) fn summary(&self, all: bool) -> String {
        let (pods, templates) = (&self.pods, &self.templates);
        let both = |pods: usize, templates: usize| format!("{} and {}", number(pods, "running pod"), number(templates, "template"));
        let mut text = format!("of {}, ", both(pods.judged, templates.judged));
        text += &match (pods.refused, templates.refused) {
            (0, 0) => "nothing is known that would be refused and is not now".to_owned(),
            (pods, templates) => format!("{} would be refused that are not now", both(pods, templates)),
        };
        if pods.not_known + templates.not_known > 0 {
            text += &format!("; of {} it is not known, since no registry is asked here", both(pods.not_known, templates.not_known));
        }
        if pods.refused_already + templates.refused_already > 0 {
            let hint = if all { "" } else { " (--all lists them)" };
            text += &format!("; {} would be refused today as well{hint}", both(pods.refused_already, templates.refused_already));
        }
        if self.left_out > 0 {
            text += &format!("; {} more lines are left out", self.left_out);
        }
        text
    }
}

fn number(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

impl Line {
    fn row(&self, verdict: Cell) -> Vec<Cell> {
        let pods = if self.pods == 0 { String::new() } else { self.pods.to_string() };
        let mut cells: Vec<Cell> =
            [&self.namespace, &self.workload, &self.container, &self.image, &pods].map(|text| text.as_str().into()).to_vec();
        cells.push(verdict);
        // Several policies may say the same.
        let mut whys: Vec<(&str, Vec<&str>)> = Vec::new();
        for said in &self.policies {
            match whys.iter_mut().find(|(reason, _)| *reason == said.reason) {
                Some((_, policies)) => policies.push(&said.policy),
                None => whys.push((&said.reason, vec![&said.policy])),
            }
        }
        let whys: Vec<String> = whys.iter().map(|(reason, policies)| format!("{reason} [{}]", policies.join(", "))).collect();
        cells.push(whys.join("; ").as_str().into());
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(verdict: Option<Verdict>, policies: &[(&str, &str)]) -> Found {
        let said = |(policy, reason): &(&str, &str)| Said { policy: (*policy).into(), mode: Mode::Audit, reason: (*reason).into() };
        Found { verdict, digest: None, policies: policies.iter().map(said).collect() }
    }

    fn report() -> Report {
        let mut report = Report::new(BTreeSet::new());
        let (fine, open) = (found(None, &[]), found(Some(Verdict::NotKnown), &[("p", "not seen yet")]));
        let no = found(Some(Verdict::Refused), &[("p", "held"), ("q", "held"), ("r", "not signed")]);
        let already = found(Some(Verdict::Already), &[("old", "held")]);
        report.add(Bearer::Template, "team", "Deployment/web", [("c", "app:1", &no)].into_iter());
        for _ in 0..2 {
            report.add(Bearer::Pod, "team", "Deployment/web", [("c", "app:1", &no), ("side", "app:2", &open)].into_iter());
        }
        report.add(Bearer::Pod, "team", "Pod/alone", [("c", "app:1", &fine)].into_iter());
        report.add(Bearer::Pod, "team", "Pod/held", [("c", "app:1", &no), ("d", "app:3", &already)].into_iter());
        report.end()
    }

    #[test]
    fn a_template_and_its_pods_are_one_line_and_each_pod_counts_once() {
        let report = report();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["answer"], "Refuse");
        assert_eq!(json["pods"], serde_json::json!({"judged": 4, "refused": 2, "notKnown": 0, "refusedAlready": 1}));
        assert_eq!(json["templates"], serde_json::json!({"judged": 1, "refused": 1, "notKnown": 0, "refusedAlready": 0}));
        let line = &json["refused"][0];
        assert_eq!((&line["workload"], &line["pods"], &line["template"]), (&"Deployment/web".into(), &2.into(), &true.into()));
        assert_eq!(line["policies"][2], serde_json::json!({"policy": "r", "mode": "Audit", "reason": "not signed"}));
        assert_eq!(json["notKnown"][0]["pods"], 2);
        assert_eq!(json["refusedAlready"][0]["workload"], "Pod/held");
    }

    #[test]
    fn the_table_lists_what_is_new_and_on_request_what_is_not() {
        let report = report();
        let lines = |all| {
            report
                .table(all, false)
                .lines()
                .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect())
                .collect::<Vec<Vec<String>>>()
        };
        assert_eq!(lines(false)[1], ["team", "Deployment/web", "c", "app:1", "2", "refused", "held [p, q]; not signed [r]"]);
        assert_eq!(lines(false)[3], ["team", "Deployment/web", "side", "app:2", "2", "not known", "not seen yet [p]"]);
        assert_eq!((lines(false).len(), lines(true).len()), (4, 5));
        let summary = report.summary(false);
        assert_eq!(
            summary,
            "of 4 running pods and 1 template, 2 running pods and 1 template would be refused that are not now; 1 running pod and 0 templates would be refused today as well (--all lists them)"
        );
    }

    #[test]
    fn how_it_ends_depends_on_the_worst() {
        let end = |verdicts: &[Option<Verdict>]| {
            let mut report = Report::new(BTreeSet::new());
            for verdict in verdicts {
                report.add(Bearer::Pod, "n", "Pod/p", [("c", "i", &found(*verdict, &[("p", "r")]))].into_iter());
            }
            report.end().answer.exit()
        };
        assert_eq!(end(&[]), Exit::Done);
        assert_eq!(end(&[None, Some(Verdict::Already)]), Exit::Done);
        assert_eq!(end(&[None, Some(Verdict::NotKnown)]), Exit::NotYet);
        assert_eq!(end(&[Some(Verdict::NotKnown), Some(Verdict::Refused)]), Exit::Refused);
    }
}
