use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const BOUNDS: Bounds = Bounds { flights: 6, destination: 4, share: 2, answers: 8, bytes: 1 << 20 };

impl Weigh for &'static str {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weigh for u32 {
    fn weight(&self) -> usize {
        4
    }
}

impl Weigh for Vec<u8> {
    fn weight(&self) -> usize {
        self.len()
    }
}

const fn ticket(asker: &str) -> Ticket<'_> {
    Ticket { asker, destination: "r" }
}

async fn slow(seconds: u64, value: u32) -> Found<u32> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Found { value, fresh_for: Duration::from_secs(10) }
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn an_impatient_caller_does_not_end_the_flight() {
    let flights = Flights::new(BOUNDS);
    let count = AtomicUsize::new(0);
    let start = || {
        count.fetch_add(1, Ordering::Relaxed);
        slow(5, 7)
    };
    assert_eq!(flights.get("k", ticket("a"), within(1), start).await, Err(NotYet::Deadline));
    assert_eq!(flights.get("k", ticket("a"), within(10), start).await, Ok(7));
    assert_eq!(flights.get("k", ticket("a"), within(0), start).await, Ok(7), "the answer is kept");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(flights.peek(&"k"), None);
    assert_eq!(flights.get("k", ticket("a"), within(10), start).await, Ok(7));
    assert_eq!(count.load(Ordering::Relaxed), 2, "and then asked again");
}

#[tokio::test(start_paused = true)]
async fn a_lost_flight_is_no_answer_and_the_next_starts_afresh() {
    let flights = Flights::<_, u32>::new(BOUNDS);
    let boom = || async {
        tokio::task::yield_now().await;
        panic!("a bug in a flight")
    };
    assert_eq!(flights.get("k", ticket("a"), within(10), boom).await, Err(NotYet::Lost));
    assert_eq!((flights.aloft(), flights.kept()), (0, (0, 0)));
    assert_eq!(flights.get("k", ticket("a"), within(10), || slow(1, 3)).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn shares_and_bounds_hold_and_are_given_back() {
    let flights = Flights::new(BOUNDS);
    flights.launch("1", ticket("greedy"), || slow(5, 1));
    flights.launch("2", ticket("greedy"), || slow(5, 2));
    assert_eq!(flights.get("3", ticket("greedy"), within(9), || slow(1, 3)).await, Err(NotYet::Share));
    flights.launch("4", ticket("b"), || slow(5, 4));
    flights.launch("5", ticket("c"), || slow(5, 5));
    assert_eq!(flights.get("6", ticket("d"), within(9), || slow(1, 6)).await, Err(NotYet::Full), "this destination has enough");
    let elsewhere = |asker| Ticket { asker, destination: "another" };
    assert_eq!(flights.get("7", elsewhere("greedy"), within(9), || slow(1, 7)).await, Err(NotYet::Share), "half of what others leave");
    assert_eq!(flights.get("7", elsewhere("d"), within(0), || slow(5, 7)).await, Err(NotYet::Deadline), "and another is not kept from it");
    flights.launch("8", elsewhere("f"), || slow(5, 8));
    let third = Ticket { asker: "e", destination: "third" };
    assert_eq!(flights.get("9", third, within(9), || slow(1, 9)).await, Err(NotYet::Full), "in all");
    assert_eq!(flights.get("1", ticket("d"), within(9), || slow(1, 9)).await, Ok(1), "joining costs nothing");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(flights.aloft(), 0);
    assert_eq!(flights.get("3", ticket("greedy"), within(9), || slow(1, 3)).await, Ok(3));
    let table = flights.table.lock();
    assert!(table.shares.is_empty() && table.destinations.is_empty() && table.askers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn those_who_take_their_whole_share_leave_room_for_others() {
    let flights = Flights::new(Bounds { flights: 64, destination: 16, share: 8, ..BOUNDS });
    for (asker, places) in [("one", 8), ("two", 4), ("three", 2), ("four", 1), ("five", 1)] {
        let before = flights.aloft();
        for question in 0..16 {
            flights.launch(&*format!("{asker} {question}").leak(), ticket(asker), || slow(5, 1));
        }
        assert_eq!(flights.aloft() - before, places, "{asker}");
    }
}

#[tokio::test(start_paused = true)]
async fn facts_that_come_by_another_way_wake_the_waiters() {
    let flights = Arc::new(Flights::new(BOUNDS));
    let other = flights.clone();
    let waiter = tokio::spawn(async move { other.get("k", ticket("a"), within(100), || slow(50, 1)).await });
    tokio::task::yield_now().await;
    flights.land(&2, Duration::from_secs(5), |key| *key == "other");
    flights.land(&9, Duration::from_secs(5), |key| *key == "k");
    let before = Instant::now();
    assert_eq!(waiter.await.unwrap(), Ok(9));
    assert_eq!(before.elapsed(), Duration::ZERO);
    // What came is stale before the flight is over: who asks then waits for the flight, and no second one starts.
    tokio::time::advance(Duration::from_secs(6)).await;
    let second = || async { unreachable!("it is still in the air") };
    assert_eq!(flights.get("k", ticket("a"), within(100), second).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_forgotten_on_request_and_in_time() {
    let flights = Flights::new(BOUNDS);
    for key in ["ill", "well"] {
        assert_eq!(flights.get(key, ticket("a"), within(2), || slow(1, 1)).await, Ok(1));
    }
    flights.forget(|key, value| *key == "ill" && *value == 1);
    assert_eq!((flights.peek(&"ill"), flights.peek(&"well")), (None, Some(1)));
    flights.sweep();
    assert_eq!(flights.kept().0, 1);
    tokio::time::advance(Duration::from_secs(11)).await;
    flights.sweep();
    assert_eq!(flights.kept(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn many_questions_stay_within_the_bounds() {
    let bounds = Bounds { answers: 1_000, bytes: 64 << 10, ..BOUNDS };
    let (many, large) = (Flights::new(bounds), Flights::new(bounds));
    for key in 0..20_000_u32 {
        let found = || async move { Found { value: key, fresh_for: Duration::from_secs(60) } };
        assert_eq!(many.get(key, ticket("a"), within(1), found).await, Ok(key));
        assert!(many.kept().0 <= 1_000 && many.kept().1 <= bounds.bytes, "{:?}", many.kept());
    }
    for key in 0..200_u32 {
        let found = || async move { Found { value: vec![0_u8; 4_000], fresh_for: Duration::from_secs(60) } };
        large.get(key, ticket("a"), within(1), found).await.unwrap();
        assert!(large.kept().1 <= bounds.bytes, "{:?}", large.kept());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(large.kept().0 >= 10, "{:?}", large.kept());
}

/// With real threads: what lands just then is either forgotten or kept, and the question is answered again in any case.
#[test]
fn what_is_forgotten_while_it_lands_is_asked_again() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let flights = Arc::new(Flights::<u32, u32>::new(Bounds { flights: 10_000, destination: 10_000, share: 10_000, ..BOUNDS }));
    runtime.block_on(async {
        let forgetful = flights.clone();
        let forgets = tokio::task::spawn_blocking(move || (0..2_000).for_each(|_| forgetful.forget(|_, _| true)));
        for key in 0..2_000 {
            flights.launch(key, ticket("a"), || async { Found { value: 1, fresh_for: Duration::from_secs(60) } });
        }
        forgets.await.unwrap();
        while flights.aloft() > 0 {
            tokio::task::yield_now().await;
        }
        for key in 0..2_000 {
            let fetch = || async { Found { value: 2, fresh_for: Duration::from_secs(60) } };
            let answer = flights.get(key, ticket("a"), Instant::now() + Duration::from_secs(20), fetch).await;
            assert!(matches!(answer, Ok(1 | 2)), "question {key}: {answer:?}");
        }
    });
}

/// Only so many of those who wait go on at a time, and these are slow to.
#[tokio::test(start_paused = true)]
async fn whose_time_is_up_has_the_answer_that_is_in() {
    let flights = Flights::new(BOUNDS);
    let wait = |seconds| Box::pin(flights.get("k", ticket("a"), within(seconds), || slow(5, 7)));
    let mut first: Vec<_> = (0..100).map(|_| wait(60)).collect();
    for waiter in &mut first {
        assert!(futures::poll!(waiter).is_pending());
    }
    assert_eq!((wait(4).await, wait(6).await), (Err(NotYet::Deadline), Ok(7)));
    assert_eq!(futures::future::join_all(first).await, [Ok(7); 100]);
}
