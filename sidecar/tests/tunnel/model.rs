//! Whatever happens to connections through the sidecars as they are, in whatever order: no app ever gets a byte that is not
//! its own, loses one without being told, or is told of an end that was none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_sidecar::proxy::tunnel::Role;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::app::{App, Told};
use crate::ways::Cut;
use crate::world::{Peers, World};

/// How many cases are run, where nobody says more.
const CASES: u32 = 40;
/// A case that lasts longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// A failed case is made smaller by so many tries.
const SHRINKS_MAX: u32 = 64;
/// Of all places to cut a connection every so many are tried, where nobody says otherwise.
const CUT_STRIDE: usize = 97;
/// Rotations of a side in one case: more would be a flood (docs/WIRE.md, Re-authentication).
const ROTATIONS_MAX: usize = 4;

/// Something that happens. Indices are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    Say(Role, usize, usize),
    Finish(Role, usize),
    /// Both ends of a connection have nothing more to say and take everything.
    End(usize),
    Break(Role, usize),
    Take(Role, usize, usize),
    Rotate(Role),
    Deny,
    RevokeAt(Role),
    Restore,
    /// A way is held up until the next [`Step::Restore`].
    Hold(usize),
    CutNow(usize),
    CutNext(usize, Role, usize),
    Wait(u8),
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Caller), Just(Role::Called)]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![1..50usize, 1..5_000usize, 60_000..200_000usize]
}

fn calm() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Connect),
        8 => (role(), any::<usize>(), bytes()).prop_map(|(role, which, count)| Step::Say(role, which, count)),
        6 => (role(), any::<usize>()).prop_map(|(role, which)| Step::Finish(role, which)),
        8 => any::<usize>().prop_map(Step::End),
        1 => (role(), any::<usize>()).prop_map(|(role, which)| Step::Break(role, which)),
        6 => (role(), any::<usize>(), bytes()).prop_map(|(role, which, count)| Step::Take(role, which, count)),
        1 => role().prop_map(Step::Rotate),
        1 => any::<usize>().prop_map(Step::Hold),
        3 => Just(Step::Restore),
        8 => any::<u8>().prop_map(Step::Wait),
    ]
}

fn disturbing() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Deny),
        role().prop_map(Step::RevokeAt),
        any::<usize>().prop_map(Step::CutNow),
        (any::<usize>(), role(), 0..8_000usize)
            .prop_map(|(which, role, behind)| Step::CutNext(which, role, behind)),
    ]
}

/// In half of the cases nothing happens over which a connection may break that its apps do not break.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let disturbed = prop_oneof![12 => calm(), 1 => disturbing()];
    prop_oneof![proptest::collection::vec(calm(), 10..60), proptest::collection::vec(disturbed, 10..60),]
}

/// What was run, in all.
#[derive(Debug, Default)]
struct Sum {
    cases: AtomicUsize,
    connections: AtomicUsize,
    clean: AtomicUsize,
    disturbed: AtomicUsize,
}

impl Sum {
    fn count(&self, world: &World) {
        let clean = world.callers.iter().filter(|app| app.told().got_end).count();
        self.cases.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(world.callers.len(), Ordering::Relaxed);
        self.clean.fetch_add(clean, Ordering::Relaxed);
        self.disturbed.fetch_add(usize::from(world.disturbed), Ordering::Relaxed);
    }
}

#[test]
fn whatever_happens_in_whatever_order_each_app_gets_its_own_bytes_and_its_own_end() {
    let cases = std::env::var("POSTERN_MODEL_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: SHRINKS_MAX, ..Config::default() };
    let (sum, mut runner) = (Sum::default(), TestRunner::new(config));
    let run = runner.run(&steps(), |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case(&steps, &sum)).map_err(|wrong| {
            println!("model: {} cases held, then {wrong}", sum.cases.load(Ordering::Relaxed));
            TestCaseError::fail(wrong)
        })
    });
    println!("model: {sum:?}");
    run.unwrap();
}

async fn case(steps: &[Step], sum: &Sum) -> Result<(), String> {
    let mut case = Case { world: World::new(Peers::All).await, rotations: 0 };
    for step in steps {
        case.act(*step).await;
    }
    finish(&mut case.world, sum).await
}

/// Lets everything end, and judges it.
async fn finish(world: &mut World, sum: &Sum) -> Result<(), String> {
    let ended = tokio::time::timeout(PATIENCE, world.end()).await;
    ended.map_err(|_| format!("it hangs: {:?} {:?}", world.callers, world.seen.lock().unwrap()))?;
    world.judge()?;
    sum.count(world);
    Ok(())
}

struct Case {
    world: World,
    rotations: usize,
}

impl Case {
    async fn act(&mut self, step: Step) {
        match step {
            Step::Connect => drop(self.world.connect().await),
            Step::Say(role, which, count) => self.with(role, which, |told| {
                told.said += if told.finished { 0 } else { count };
            }),
            Step::Finish(role, which) => self.with(role, which, |told| told.finished = true),
            Step::End(which) => self.release(which),
            Step::Break(role, which) => self.with(role, which, |told| told.broken = true),
            Step::Take(role, which, count) => {
                self.with(role, which, |told| told.window = told.window.saturating_add(count));
            }
            Step::Rotate(role) if self.rotations < ROTATIONS_MAX => {
                self.rotations += 1;
                self.world.rotate(role);
            }
            Step::Rotate(_) => {}
            Step::Deny => self.world.deny(),
            Step::RevokeAt(role) => self.world.revoke_at(role),
            Step::Restore => self.world.restore(),
            Step::Hold(which) => {
                let ways = &self.world.ways;
                ways[which % ways.len()].events.held.send_replace(true);
            }
            Step::CutNow(which) => {
                self.world.disturbed = true;
                let ways = &self.world.ways;
                ways[which % ways.len()].events.cut.notify_waiters();
            }
            Step::CutNext(which, from, behind) => {
                self.world.disturbed = true;
                let ways = &self.world.ways;
                *ways[which % ways.len()].events.next.lock().unwrap() = Some(Cut { from, behind });
            }
            Step::Wait(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(u64::from(milliseconds / 32))).await;
            }
        }
    }

    fn release(&self, which: usize) {
        let callers = &self.world.callers;
        let Some(caller) = callers.iter().rev().nth(which % callers.len().clamp(1, 4)) else { return };
        caller.release();
        self.world.attempts(caller).iter().for_each(App::release);
    }

    /// One of the last apps of that side, so that something happens to those that live.
    fn with(&self, role: Role, which: usize, act: impl FnOnce(&mut Told)) {
        let seen = self.world.seen.lock().unwrap();
        let apps = if role == Role::Caller { &self.world.callers } else { &seen.called };
        if let Some(app) = apps.iter().rev().nth(which % apps.len().clamp(1, 4)) {
            app.act(act);
        }
    }
}

/// What may happen at every step of a connection.
const EVENTS: [Step; 7] = [
    Step::Rotate(Role::Caller),
    Step::Rotate(Role::Called),
    Step::Deny,
    Step::RevokeAt(Role::Caller),
    Step::RevokeAt(Role::Called),
    Step::CutNow(0),
    Step::CutNext(0, Role::Called, 0),
];
/// A connection's life: by the end all has been said in both directions.
const LIFE: [Step; 9] = [
    Step::Connect,
    Step::Say(Role::Caller, 0, 100),
    Step::Take(Role::Called, 0, 60),
    Step::Say(Role::Called, 0, 90_000),
    Step::Take(Role::Caller, 0, 50_000),
    Step::Say(Role::Caller, 0, 300_000),
    Step::Finish(Role::Called, 0),
    Step::Take(Role::Called, 0, 70_000),
    Step::Finish(Role::Caller, 0),
];

#[tokio::test]
async fn each_event_at_each_step_of_a_connection_leaves_each_app_its_own_bytes_and_end() {
    let sum = Sum::default();
    for peers in [Peers::Postern, Peers::Direct] {
        for (at, event) in (0..=LIFE.len()).flat_map(|at| EVENTS.map(|event| (at, event))) {
            let mut case = Case { world: World::new(peers).await, rotations: 0 };
            // One connection before it, so that there is a tunnel.
            let first = case.world.connect().await;
            first.release();
            if let Some(called) = case.world.called(&first).await {
                called.release();
            }
            for (step, what) in LIFE.iter().enumerate() {
                if step == at {
                    case.act(event).await;
                }
                case.act(*what).await;
                if step == 2 && step < at {
                    let caller = case.world.callers.last().unwrap().clone();
                    case.world.called(&caller).await;
                }
            }
            let ended = finish(&mut case.world, &sum).await;
            ended.unwrap_or_else(|wrong| panic!("{peers:?}, {event:?} at step {at}: {wrong}"));
        }
    }
    println!("each event at each step: {sum:?}");
}

#[tokio::test]
async fn a_way_cut_behind_any_byte_of_either_side_leaves_each_app_its_own_bytes_and_end() {
    let stride =
        std::env::var("POSTERN_MODEL_CUT_STRIDE").map_or(CUT_STRIDE, |stride| stride.parse().unwrap());
    let (sum, mut cuts) = (Sum::default(), 0);
    for peers in [Peers::Postern, Peers::Direct] {
        let mut world = World::new(peers).await;
        two_connections(&mut world).await;
        let events = world.ways[0].events.clone();
        let carried = events.carried.each_ref().map(|carried| carried.load(Ordering::Relaxed));
        world.judge().unwrap();
        world.forget_apps();
        for (from, all) in [(Role::Caller, carried[0]), (Role::Called, carried[1])] {
            for behind in (0..=all).step_by(stride) {
                // No tunnel is left of the case before.
                world.rotate(Role::Caller);
                world.disturbed = true;
                *events.next.lock().unwrap() = Some(Cut { from, behind });
                two_connections(&mut world).await;
                world.judge().unwrap_or_else(|wrong| panic!("{peers:?}, {from:?} behind {behind}: {wrong}"));
                cuts += 1;
                sum.count(&world);
                world.forget_apps();
            }
        }
    }
    println!("{cuts} cuts: {sum:?}");
}

/// One connection after the other, which ask and answer.
async fn two_connections(world: &mut World) {
    for _ in 0..2 {
        let caller = world.connect().await;
        caller.act(|told| told.said += 10);
        caller.release();
        let answered = async {
            if let Some(called) = world.called(&caller).await {
                called.act(|told| told.said = 20);
                called.release();
            }
        };
        answered.await;
        tokio::time::timeout(PATIENCE, world.end()).await.expect("it ends");
    }
}
