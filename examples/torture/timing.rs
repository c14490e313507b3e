//! Test of the verification time: it must not reveal the matching bytes of a digest or the key.

use std::hint::black_box;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use saltecho::auth::{Challenge, Key, Keyring, MacAlgorithm};

use crate::Report;

pub(crate) fn run(samples: u64, report: &mut Report) {
    let keys: Vec<Key> = (0..4u8).map(|i| Key::new(vec![i + 1; 32])).collect();
    let algorithm = MacAlgorithm::Md5;
    let keyring = Keyring::new(algorithm, &keys).unwrap();
    let challenge = Challenge::new([0x5a; Challenge::LEN]);
    let right: Vec<Vec<u8>> =
        keys.iter().map(|key| algorithm.digest(key, &challenge).as_bytes().to_vec()).collect();
    let wrong_at = |position: usize| {
        let mut digest = right[0].clone();
        digest[position] ^= 1;
        digest
    };
    let last = right[0].len() - 1;
    for (what, classes) in [
        ("first byte wrong, against last byte wrong", [wrong_at(0), wrong_at(last)]),
        ("key 1, against key 4", [right[0].clone(), right[3].clone()]),
    ] {
        let times = measure(samples, &keyring, &challenge, &classes);
        let t = welch(&times);
        let figure = format!("t = {t:+.2} of 2 x {}", times[0].len().min(times[1].len()));
        report.check(what, figure, "|t| < 4.5", t.abs() < 4.5);
    }
    // Control: the same measurement must detect a comparison that stops early.
    let (first, end) = (wrong_at(0), wrong_at(last));
    let control = measure_with(samples / 10, |class| {
        let digest = black_box([&first, &end][class]);
        (0..200)
            .filter(|_| black_box(&right[0]).iter().zip(digest).all(|(a, b)| black_box(a == b)))
            .count()
    });
    let t = welch(&control);
    report.check(
        "control: a comparison that stops early",
        format!("t = {t:+.2}"),
        "|t| > 4.5",
        t.abs() > 4.5,
    );
}

fn measure(
    samples: u64,
    keyring: &Keyring,
    challenge: &Challenge,
    classes: &[Vec<u8>; 2],
) -> [Vec<f64>; 2] {
    measure_with(samples, |class| {
        usize::from(keyring.verify(black_box(challenge), black_box(&classes[class])))
    })
}

/// Measures both classes in random order, so that a drift of the machine affects both equally.
fn measure_with(samples: u64, mut act: impl FnMut(usize) -> usize) -> [Vec<f64>; 2] {
    let mut random = StdRng::seed_from_u64(1);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..2 * samples {
        let class = usize::from(random.random::<bool>());
        let begin = Instant::now();
        black_box(act(class));
        times[class].push(begin.elapsed().as_nanos() as f64);
    }
    // The longest times include interrupts: drop all above one common bound (as dudect does).
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_unstable_by(f64::total_cmp);
    let bound = all[all.len() * 95 / 100];
    times.each_mut().map(|times| {
        times.retain(|time| *time <= bound);
        std::mem::take(times)
    })
}

/// Welch's t for two samples of unequal variance.
fn welch([a, b]: &[Vec<f64>; 2]) -> f64 {
    let moments = |sample: &[f64]| {
        let n = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / n;
        let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(a), moments(b));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}
