//! A volley: many reviews at once, each on a connection of its own, with as little of the load generator in it as can be.
//!
//! What makes the load shares the cores with what is measured. So each request is encrypted before the volley begins and is one write, and an
//! answer counts as arrived when it is read from the kernel: before it is decrypted, and with nothing of an HTTP client in between.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use rustls::ClientConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::unconstrained,
    time::{Instant, timeout},
};

use crate::{
    load::{LONGEST_ANSWER, Protocol, connect, connector},
    stack::Target,
};

/// What is read at once: more than the head of an answer and a denial.
const CHUNK: usize = 4 << 10;

/// One open connection, for one review a volley: HTTP/1.1 over TLS.
pub struct Barrel {
    stream: TcpStream,
    tls: ClientConnection,
    authority: String,
}

/// A review that is ready to be sent on its connection.
pub struct Loaded<'a> {
    barrel: &'a mut Barrel,
    sealed: Vec<u8>,
}

/// What came of it.
pub struct Shot {
    /// From before the request is written until the last of the answer is read.
    pub took: Duration,
    /// The answer's body.
    pub answer: Bytes,
}

/// Everything at once, in this order: each review is written before the next one is, and none is held back for fairness among tasks.
pub async fn all<T>(shots: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    unconstrained(join_all(shots)).await
}

impl Barrel {
    /// Opens so many.
    pub async fn open(target: &Target, count: usize) -> Vec<Self> {
        let connector = connector(target, Protocol::Http1);
        let mut barrels = Vec::with_capacity(count);
        for _ in 0..count {
            let (stream, tls) = connect(target, &connector).await.into_inner();
            barrels.push(Self { stream, tls, authority: target.address.to_string() });
        }
        barrels
    }

    /// Encrypts a review.
    pub fn load(&mut self, path: &str, review: &[u8]) -> Loaded<'_> {
        let (authority, length) = (&self.authority, review.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: kube-apiserver-admission\r\naccept: application/json, */*\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        self.tls.writer().write_all(head.as_bytes()).unwrap();
        self.tls.writer().write_all(review).unwrap();
        let mut sealed = Vec::with_capacity(length + CHUNK);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed).unwrap();
        }
        Loaded { barrel: self, sealed }
    }
}

impl Loaded<'_> {
    /// Sends it, and waits for the answer.
    pub async fn fire(self) -> Shot {
        let whither = self.barrel.authority.clone();
        let Ok(shot) = timeout(LONGEST_ANSWER, self.exchange()).await else {
            panic!("{whither}: no answer within {LONGEST_ANSWER:?}");
        };
        shot
    }

    async fn exchange(self) -> Shot {
        let Barrel { stream, tls, .. } = self.barrel;
        let sent = Instant::now();
        stream.write_all(&self.sealed).await.unwrap();
        let (mut chunk, mut plain) = ([0; CHUNK], Vec::new());
        loop {
            let length = stream.read(&mut chunk).await.unwrap();
            let took = sent.elapsed();
            assert!(length > 0, "the connection ended before the answer");
            let mut read = &chunk[..length];
            while !read.is_empty() {
                tls.read_tls(&mut read).unwrap();
                let state = tls.process_new_packets().unwrap();
                let begin = plain.len();
                plain.resize(begin + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain[begin..]).unwrap();
            }
            if let Some(answer) = body(&plain) {
                return Shot { took, answer };
            }
        }
    }
}

/// The body of a good answer, if all of it is there.
fn body(answer: &[u8]) -> Option<Bytes> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let length: usize = length.parse().unwrap();
    (answer.len() >= end + length).then(|| Bytes::copy_from_slice(&answer[end..end + length]))
}
