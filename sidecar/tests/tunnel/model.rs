//! Random interleavings of everything that can happen to tunnels: no app ever gets a byte that is not its own, loses
//! one without being told, or is told of an end that was none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_sidecar::tunnel::Role;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::task::{JoinSet, yield_now};

use crate::app::{App, Source};
use crate::ends::World;

/// How many cases are run, where nobody says more.
const CASES: u32 = 150;
/// A case that lasts longer hangs.
const PATIENCE: Duration = Duration::from_secs(15);
/// A failed case is made smaller for so long.
const SHRINK_MS_MAX: u32 = 60_000;
/// Turns of the runtime; who waits for more waits for as much as handshakes need.
const FEW_TURNS: u8 = 160;
const LONGER: Duration = Duration::from_millis(3);
/// Takes all there is.
const WIDE: usize = 1 << 40;
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
    Pause(Role),
    Resume(Role),
    /// The called side ends its idle tunnels.
    Retire,
    /// The calling side does.
    EmptyPool,
    RefuseNext,
    Rotate(Role),
    /// TCP ends without close_notify.
    Cut(usize),
    Wait(u8),
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Caller), Just(Role::Called)]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![1..50usize, 1..5_000usize, 60_000..200_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Connect),
        8 => (role(), any::<usize>(), bytes()).prop_map(|(role, which, count)| Step::Say(role, which, count)),
        6 => (role(), any::<usize>()).prop_map(|(role, which)| Step::Finish(role, which)),
        8 => any::<usize>().prop_map(Step::End),
        1 => (role(), any::<usize>()).prop_map(|(role, which)| Step::Break(role, which)),
        6 => (role(), any::<usize>(), bytes()).prop_map(|(role, which, count)| Step::Take(role, which, count)),
        2 => role().prop_map(Step::Pause),
        3 => role().prop_map(Step::Resume),
        2 => Just(Step::Retire),
        1 => Just(Step::EmptyPool),
        1 => Just(Step::RefuseNext),
        1 => role().prop_map(Step::Rotate),
        8 => any::<u8>().prop_map(Step::Wait),
    ]
}

/// A third of the cases have a cut tunnel, too.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let calm = proptest::collection::vec(step(), 10..80);
    let cut = prop_oneof![20 => step(), 1 => any::<usize>().prop_map(Step::Cut)];
    prop_oneof![2 => calm, 1 => proptest::collection::vec(cut, 10..80)]
}

/// What was run, in all.
#[derive(Debug, Default)]
struct Sum {
    cases: AtomicUsize,
    connections: AtomicUsize,
    clean: AtomicUsize,
    leases: AtomicUsize,
    tunnels: AtomicUsize,
    again: AtomicUsize,
    vouched: AtomicUsize,
}

#[test]
fn whatever_happens_in_whatever_order_each_app_gets_its_own_bytes_and_its_own_end() {
    let cases = std::env::var("POSTERN_MODEL_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let config =
        Config { cases, failure_persistence: None, max_shrink_time: SHRINK_MS_MAX, ..Config::default() };
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

struct Case {
    world: Arc<World>,
    callers: Vec<App>,
    carrying: JoinSet<()>,
    /// A tunnel was cut: whoever was on it was broken off.
    is_cut: bool,
    rotations: usize,
}

async fn case(steps: &[Step], sum: &Sum) -> Result<(), String> {
    let world = World::new().await;
    let listening = tokio::spawn(world.clone().listen());
    let (callers, carrying) = (Vec::new(), JoinSet::new());
    let mut case = Case { world, callers, carrying, is_cut: false, rotations: 0 };
    for step in steps {
        case.act(*step).await;
    }
    let ended = tokio::time::timeout(PATIENCE, case.end()).await;
    listening.abort();
    ended.map_err(|_| format!("it hangs: {:?} {:?}", case.callers, case.world.seen.lock().unwrap()))?;
    case.judge()?;
    case.count(sum);
    Ok(())
}

impl Case {
    async fn act(&mut self, step: Step) {
        match step {
            Step::Connect => {
                let source = Source { connection: self.callers.len() as u32, attempt: 0 };
                let app = App::new(source);
                self.carrying.spawn(self.world.clone().carry(app.clone()));
                self.callers.push(app);
            }
            Step::Say(role, which, count) => self.with(role, which, |told| {
                told.said += if told.finished { 0 } else { count };
            }),
            Step::Finish(role, which) => self.with(role, which, |told| told.finished = true),
            Step::End(which) => self.release(which),
            Step::Break(role, which) => self.with(role, which, |told| told.broken = true),
            Step::Take(role, which, count) => self.with(role, which, |told| told.window += count),
            Step::Pause(role) => self.world.gate(role).close(),
            Step::Resume(role) => self.world.gate(role).open(),
            Step::Retire => self.world.retired.send_modify(|times| *times += 1),
            Step::EmptyPool => self.world.empty_pool(),
            Step::RefuseNext => self.world.seen.lock().unwrap().refusing += 1,
            Step::Rotate(role) if self.rotations < ROTATIONS_MAX => {
                self.rotations += 1;
                self.world.rotate(role);
            }
            Step::Rotate(_) => {}
            Step::Cut(which) => {
                self.is_cut = true;
                let sockets = &self.world.handles.lock().unwrap().sockets;
                if let Some(socket) = sockets.get(which % sockets.len().max(1)) {
                    // It may be gone already.
                    let _cut = socket.shutdown(std::net::Shutdown::Both);
                }
            }
            Step::Wait(turns) if turns > FEW_TURNS => tokio::time::sleep(LONGER).await,
            Step::Wait(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
        }
    }

    fn release(&self, which: usize) {
        let Some(caller) = self.callers.iter().rev().nth(which % self.callers.len().clamp(1, 4)) else {
            return;
        };
        release(caller);
        let seen = self.world.seen.lock().unwrap();
        let is_its = |called: &&App| called.source.connection == caller.source.connection;
        seen.called.iter().filter(is_its).for_each(release);
    }

    /// One of the last apps of that side, so that something happens to those that live.
    fn with(&self, role: Role, which: usize, act: impl FnOnce(&mut crate::app::Told)) {
        let seen = self.world.seen.lock().unwrap();
        let apps = if role == Role::Caller { &self.callers } else { &seen.called };
        if let Some(app) = apps.iter().rev().nth(which % apps.len().clamp(1, 4)) {
            app.act(act);
        }
    }

    /// Everybody is polled, takes everything and has said everything, until all is over.
    async fn end(&mut self) {
        self.world.gates.iter().for_each(|gate| gate.open());
        self.callers.iter().for_each(release);
        while !self.carrying.is_empty() {
            self.world.seen.lock().unwrap().called.iter().for_each(release);
            let soon = Duration::from_millis(1);
            if let Ok(Some(carried)) = tokio::time::timeout(soon, self.carrying.join_next()).await {
                carried.unwrap();
            }
        }
        // The called side may still be about to hear of the end.
        let is_open = |app: &App| !app.told().closed;
        while self.world.seen.lock().unwrap().called.iter().any(is_open) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.world.empty_pool();
    }

    fn judge(&self) -> Result<(), String> {
        let seen = self.world.seen.lock().unwrap();
        if !seen.wrong.is_empty() {
            return Err(format!("among peers that keep the rules: {:?}", seen.wrong));
        }
        for caller in &self.callers {
            let attempts: Vec<&App> =
                seen.called.iter().filter(|app| app.source.connection == caller.source.connection).collect();
            self.judge_one(caller, &attempts, seen.refused.contains(&caller.source.connection))
                .map_err(|wrong| format!("{wrong}: {:?}, reached {}", caller.source, attempts.len()))?;
        }
        Ok(())
    }

    fn judge_one(&self, caller: &App, attempts: &[&App], is_refused: bool) -> Result<(), String> {
        if attempts.iter().filter(|called| !called.told().got.is_empty()).count() > 1 {
            return Err("two apps got what one has said".to_owned());
        }
        for called in attempts {
            if !called.heard(caller) {
                return Err("the called app got other bytes".to_owned());
            }
            if called.told().got_end && !called.heard_all(caller) {
                return Err("the called app was told of a clean end that was none".to_owned());
            }
        }
        if !caller.told().got.is_empty() && !attempts.iter().any(|called| caller.heard(called)) {
            return Err("the calling app got other bytes".to_owned());
        }
        if caller.told().got_end && !attempts.iter().any(|called| caller.heard_all(called)) {
            return Err("the calling app was told of a clean end that was none".to_owned());
        }
        let broken = caller.told().broken || attempts.iter().any(|called| called.told().broken);
        let disturbed = broken || is_refused || self.is_cut;
        if !disturbed && !caller.told().got_end {
            return Err("the calling app was reset for nothing".to_owned());
        }
        if !disturbed && !attempts.iter().any(|called| called.told().got_end) {
            return Err("the called app was reset for nothing".to_owned());
        }
        // A refusal that was cut off on its way is no answer.
        if is_refused && !self.is_cut && caller.told().got_end {
            return Err("a refusal looks like a clean end".to_owned());
        }
        Ok(())
    }

    fn count(&self, sum: &Sum) {
        let seen = self.world.seen.lock().unwrap();
        let clean = self.callers.iter().filter(|app| app.told().got_end).count();
        sum.cases.fetch_add(1, Ordering::Relaxed);
        sum.connections.fetch_add(self.callers.len(), Ordering::Relaxed);
        sum.clean.fetch_add(clean, Ordering::Relaxed);
        sum.leases.fetch_add(seen.leases, Ordering::Relaxed);
        sum.tunnels.fetch_add(seen.tunnels, Ordering::Relaxed);
        sum.again.fetch_add(seen.again, Ordering::Relaxed);
        for side in [&self.world.net.caller, &self.world.net.called] {
            let text = side.plane.metrics.text().unwrap();
            sum.vouched.fetch_add(vouched(&text), Ordering::Relaxed);
        }
    }
}

fn release(app: &App) {
    let is_released = {
        let told = app.told();
        told.window > WIDE / 2 && told.finished
    };
    if !is_released {
        app.act(|told| (told.window, told.finished) = (WIDE, true));
    }
}

fn vouched(metrics: &str) -> usize {
    let line = metrics.lines().find(|line| line.starts_with("postern_tunnel_reauthentications_total "));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|count| count.parse().ok()).unwrap_or(0)
}
