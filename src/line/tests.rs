use futures::FutureExt as _;

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn line(rate: u32, concurrent: u32) -> Line {
    Line::new(&Limits { requests_per_second: rate, concurrent_requests: concurrent, timeout_seconds: 5 })
}

async fn ask(line: &Line, class: Class, namespace: &str) -> Result<Turn, Busy> {
    line.turn(class, namespace, LONG).await
}

#[tokio::test(start_paused = true)]
async fn the_rate_holds() {
    let line = line(10, 1_000);
    let start = Instant::now();
    for _ in 0..30 {
        drop(ask(&line, Class::Admission, "a").await.unwrap());
    }
    let took = start.elapsed().as_secs_f64();
    assert!((1.9..2.2).contains(&took), "10 at once, then 20 at 10 a second: {took} s");
}

#[tokio::test(start_paused = true)]
async fn places_are_given_back_also_by_those_who_leave() {
    let line = line(1_000, 2);
    let both = (ask(&line, Class::Admission, "a").await.unwrap(), ask(&line, Class::Admission, "b").await.unwrap());
    let busy = line.turn(Class::Admission, "a", Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(busy.cause, BusyCause::Limit);
    let (one, two) = (line.clone(), line.clone());
    let leaves = tokio::spawn(async move { ask(&one, Class::Admission, "a").await });
    let stays = tokio::spawn(async move { ask(&two, Class::Admission, "a").await });
    tokio::task::yield_now().await;
    assert_eq!(line.waiting(), 3, "one of them has left and does not know it");
    leaves.abort();
    let _ = leaves.await;
    drop(both);
    stays.await.unwrap().unwrap();
    assert_eq!(line.waiting(), 0);
    assert_eq!(line.0.lock().under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn a_greedy_namespace_delays_another_by_a_turn() {
    let line = line(10, 1_000);
    let order = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..10 {
        drop(ask(&line, Class::Admission, "first").await.unwrap());
    }
    let mut tasks = Vec::new();
    let mut queue = |namespace: &'static str, class: Class| {
        let (line, order) = (line.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let turn = ask(&line, class, namespace).await.unwrap();
            order.lock().push(namespace);
            drop(turn);
        }));
    };
    (0..500).for_each(|_| queue("greedy", Class::Admission));
    queue("modest", Class::Admission);
    tokio::task::yield_now().await;
    queue("poll", Class::Polling);
    queue("retry", Class::Retry);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let first: Vec<_> = order.lock().iter().take(30).copied().collect();
    assert!(first[..2].contains(&"modest"), "{first:?}");
    let at = |name: &str| first.iter().position(|seen| *seen == name).unwrap();
    assert!(at("poll") < at("retry"), "one turn in eight goes the other way round: {first:?}");
    assert!(first[at("poll") + 1..at("retry")].iter().filter(|name| **name == "greedy").count() >= 6, "{first:?}");
    for task in tasks {
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_wanted_to_know_goes_before_the_regular_look() {
    let line = line(1, 1);
    drop(ask(&line, Class::Admission, "first").await.unwrap());
    let order = Arc::new(Mutex::new(Vec::new()));
    for class in [Class::Polling, Class::Retry].repeat(7) {
        let (line, order) = (line.clone(), order.clone());
        tokio::spawn(async move {
            let _turn = ask(&line, class, "").await.unwrap();
            order.lock().push(class);
        });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let order = order.lock();
    let retries = order.iter().take(7).filter(|class| **class == Class::Retry).count();
    assert!(order.len() == 14 && retries >= 6, "but for one turn in eight: {order:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_has_slow_images_leaves_places_for_others() {
    let line = line(1_000, 16);
    let mut held = Vec::new();
    for (namespace, places) in [("one", 8), ("two", 4), ("three", 2), ("four", 1), ("five", 1)] {
        for _ in 0..10 {
            let turn = std::pin::pin!(ask(&line, Class::Admission, namespace));
            held.extend(turn.now_or_never().map(Result::unwrap));
        }
        assert_eq!(held.iter().filter(|turn: &&Turn| &*turn.namespace == namespace).count(), places, "{namespace}");
    }
    assert_eq!(line.0.lock().under_way, 16);
    drop(held);
    assert!(line.0.lock().under_way_of.is_empty());
    assert!(ask(&line, Class::Admission, "six").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_time_that_the_registry_named() {
    let line = line(1_000, 1_000);
    let start = Instant::now();
    line.throttled(Some(Duration::from_secs(1)));
    line.throttled(Some(Duration::from_millis(10)));
    drop(ask(&line, Class::Admission, "a").await.unwrap());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    line.throttled(Some(Duration::from_secs(30)));
    let busy = ask(&line, Class::Admission, "a").await.unwrap_err();
    assert_eq!(busy, Busy { cause: BusyCause::Throttled, retry_after: Duration::from_secs(30) }, "told at once, not kept waiting");
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(ask(&line, Class::Admission, "a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_it_closes_for_long_is_told() {
    let line = line(1_000, 1);
    let held = ask(&line, Class::Admission, "a").await.unwrap();
    let other = line.clone();
    let waiter = tokio::spawn(async move { ask(&other, Class::Admission, "a").await });
    tokio::task::yield_now().await;
    line.throttled(Some(Duration::from_secs(60)));
    assert_eq!(waiter.await.unwrap().unwrap_err().cause, BusyCause::Throttled);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_names_no_time_is_asked_ever_more_rarely_until_it_answers() {
    let line = line(1_000, 10);
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(line.throttled(None).as_millis());
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    line.answered();
    assert_eq!(line.throttled(None).as_millis(), 500);
}

/// A registry that allows twenty a second and says nothing about it beforehand.
#[tokio::test(start_paused = true)]
async fn the_pace_comes_down_to_what_a_registry_bears() {
    let line = line(200, 16);
    let start = Instant::now();
    let (mut bucket, mut filled, mut served) = (20.0_f64, start, 0);
    while served < 600 {
        let turn = ask(&line, Class::Admission, "a").await.unwrap();
        let now = Instant::now();
        bucket = (bucket + (now - filled).as_secs_f64() * 20.0).min(20.0);
        filled = now;
        if bucket >= 1.0 {
            bucket -= 1.0;
            served += 1;
            line.answered();
        } else {
            line.throttled(Some(Duration::from_secs(1)));
        }
        drop(turn);
    }
    let took = start.elapsed().as_secs_f64();
    assert!(took < 600.0 / 20.0 * 1.25, "{took} s for 600 requests at 20 a second");
}
