//! The search against simulated servers, whose capacity is known.

use super::*;
use crate::random::SplitMix;

/// p99.
const TARGET: u32 = 990_000;

fn extent(low: u64, high: u64, repeat: u32) -> Extent {
    let [low, high] = [low, high].map(|rate| rate.try_into().unwrap());
    Extent::new(low, high, None, repeat)
}

/// A window with this share of its messages within the limit, in thousandths.
fn share(thousandths: u64) -> Sample {
    Sample { fate: Fate::Counted, within: thousandths * 10, of: 10_000 }
}

const LATE: Sample = Sample { fate: Fate::Late, within: 0, of: 10_000 };
const OVERLOADED: Sample = Sample { fate: Fate::Overloaded, within: 100, of: 10_000 };

/// A search for p99 from 10,000 to 200,000 on a server that answers each request like this.
fn run(mut server: impl FnMut(Request) -> Sample) -> (Search, Vec<Request>) {
    let mut search = Search::new(extent(10_000, 200_000, 3), Some(TARGET));
    let mut requests = Vec::new();
    while let Some(request) = search.next() {
        assert_eq!(search.finding(), Finding::Unfinished);
        search.record(request, server(request));
        requests.push(request);
        assert!(requests.len() < 200, "it ends: {requests:?}");
    }
    (search, requests)
}

fn found(search: &Search) -> Option<u64> {
    match search.finding() {
        Finding::Found { rate_per_s, .. } => Some(rate_per_s),
        _ => None,
    }
}

/// A server that keeps the limit up to 70,000 and is overloaded from 90,000 on.
fn sharp(request: Request) -> Sample {
    match request.rate {
        0..=70_000 => share(1000),
        70_001..90_000 => share(900),
        _ => OVERLOADED,
    }
}

#[test]
fn a_sharp_limit_is_found_by_doubling_and_bisection() {
    let (search, requests) = run(sharp);
    let Finding::Found { rate_per_s, bound, held, of, at_least_ppm } = search.finding() else {
        panic!("{:?}", search.finding());
    };
    assert!((66_500..=70_000).contains(&rate_per_s), "{rate_per_s}");
    let Bound::Failed(above) = bound else { panic!("{bound:?}") };
    assert!((70_001..=73_500).contains(&above), "{above}");
    // The cube root of a twentieth.
    assert_eq!((held, of, at_least_ppm), (3, 3, 368_403));
    let curve: Vec<u64> = requests
        .iter()
        .filter(|request| request.purpose == Purpose::Curve)
        .map(|request| request.rate)
        .collect();
    let expected = [10_000, 20_000, 40_000, 80_000, 160_000];
    assert_eq!(curve, expected.map(|rate| [rate; 3]).concat(), "each three times, upwards");
    assert_eq!(search.skipped(), [200_000], "it is above one that is above capacity");
    let confirm = requests.iter().filter(|request| request.purpose == Purpose::Confirm);
    assert_eq!(confirm.map(|request| request.number).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn without_an_objective_there_is_only_the_curve() {
    let mut search = Search::new(extent(10, 40, 2), None);
    let mut rates = Vec::new();
    while let Some(request) = search.next() {
        rates.push(request.rate);
        search.record(request, Sample { fate: Fate::Counted, within: 0, of: 100 });
    }
    assert_eq!(rates, [10, 10, 20, 20, 40, 40]);
    assert_eq!(search.standing(20), Some(Standing::Measured));
}

#[test]
fn a_limit_outside_of_the_sweep_is_said_to_be() {
    let (search, _) = run(|_| share(995));
    assert!(matches!(
        search.finding(),
        Finding::Found { rate_per_s: 200_000, bound: Bound::EndOfSweep, .. }
    ));
    let (search, requests) = run(|_| share(989));
    assert_eq!(search.finding(), Finding::NoRate { rate_per_s: 10_000 });
    assert!(requests.iter().all(|request| request.purpose == Purpose::Curve));
}

/// The capacity of each window varies by a tenth in both directions.
#[test]
fn noise_does_not_mislead_it_by_more_than_itself() {
    let mut answers = Vec::new();
    for seed in 0..200 {
        let mut random = SplitMix::new(seed);
        let (search, _) = run(|request| {
            let capacity = 63_000 + random.below(14_000) as u64;
            match request.rate {
                rate if rate <= capacity => share(1000),
                rate if rate <= capacity * 5 / 4 => share(950),
                _ => OVERLOADED,
            }
        });
        answers.extend(found(&search));
    }
    assert!(answers.len() >= 190, "{} of 200 found an answer", answers.len());
    let good = answers.iter().filter(|rate| (59_000..=77_000).contains(*rate)).count();
    assert_eq!(good, answers.len(), "{answers:?}");
}

/// Above 50,000 every second window is bad. Three good ones in a row are no rare luck; six are.
#[test]
fn a_bimodal_server_rarely_passes_for_a_good_one() {
    let mut lucky = 0;
    for seed in 0..200 {
        let mut random = SplitMix::new(seed);
        let (search, _) = run(|request| match request.rate {
            0..=50_000 => share(1000),
            _ if random.chance(500) => share(1000),
            _ => share(700),
        });
        match found(&search) {
            Some(rate) if rate > 50_000 => lucky += 1,
            Some(rate) => assert!(rate >= 40_000, "seed {seed}: {rate}"),
            None => {
                let finding = search.finding();
                assert!(
                    matches!(finding, Finding::NotReproduced { .. }),
                    "seed {seed}: {finding:?}"
                );
            }
        }
    }
    assert!(lucky <= 20, "{lucky} of 200");
}

#[test]
fn one_bad_window_of_three_counts_with_its_messages() {
    let standing = |samples: [Sample; 3]| {
        let mut search = Search::new(extent(10, 10, 3), Some(TARGET));
        for sample in samples {
            let request = search.next().unwrap();
            search.record(request, sample);
        }
        search.standing(10).unwrap()
    };
    assert_eq!(standing([share(1000), share(1000), share(985)]), Standing::Holds, "99.5 %");
    assert_eq!(standing([share(1000), share(1000), share(900)]), Standing::Fails, "96.7 %");
    // A huge good window must not hide that most are bad.
    let huge = Sample { fate: Fate::Counted, within: 1_000_000, of: 1_000_000 };
    assert_eq!(standing([huge, share(980), share(980)]), Standing::Fails);
    assert_eq!(standing([share(1000), share(1000), LATE]), Standing::Holds);
    assert_eq!(standing([share(1000), LATE, LATE]), Standing::Late);
    assert_eq!(standing([OVERLOADED, OVERLOADED, share(1000)]), Standing::Overloaded);
}

/// Short windows hold up to 70,000, longer ones up to 66,000.
#[test]
fn what_longer_windows_refute_is_searched_again_below() {
    let (search, requests) = run(|request| match request.purpose {
        Purpose::Confirm if request.rate > 66_000 => share(900),
        _ => sharp(request),
    });
    let rate = found(&search).expect("there is one below");
    assert!((60_000..=66_000).contains(&rate), "{rate}");
    let refuted: Vec<u64> = requests
        .iter()
        .map(|request| request.rate)
        .filter(|rate| search.standing(*rate) == Some(Standing::Refuted))
        .collect();
    assert!(!refuted.is_empty() && refuted.iter().all(|rate| *rate > 66_000), "{refuted:?}");
    let (search, requests) = run(|request| match request.purpose {
        Purpose::Confirm => share(900),
        _ => sharp(request),
    });
    assert!(matches!(search.finding(), Finding::NotReproduced { .. }), "{:?}", search.finding());
    let confirm = requests.iter().filter(|request| request.purpose == Purpose::Confirm);
    assert_eq!(confirm.count(), 4 * 3, "it gives up");
}

#[test]
fn a_failure_below_a_success_is_measured_again() {
    let (search, requests) = run(|request| match (request.rate, request.purpose) {
        // Something else kept the machine busy.
        (20_000, Purpose::Curve) if request.number < 3 => share(960),
        _ => sharp(request),
    });
    let again: Vec<_> =
        requests.iter().filter(|request| request.purpose == Purpose::Again).collect();
    assert_eq!(again.len(), 3, "{again:?}");
    assert!(again.iter().all(|request| request.rate == 20_000));
    // Twice of six is a failure all the same, as its share is too low.
    assert_eq!(search.standing(20_000), Some(Standing::Fails));
    assert!(found(&search).is_some_and(|rate| (19_000..20_000).contains(&rate)));
    let (search, _) = run(|request| match (request.rate, request.purpose, request.number) {
        (20_000, Purpose::Curve, 1 | 2) => share(989),
        _ => sharp(request),
    });
    assert_eq!(search.standing(20_000), Some(Standing::Holds), "a close call that was none");
    assert!(found(&search).is_some_and(|rate| rate > 66_000));
}

#[test]
fn a_late_generator_bounds_the_answer_and_does_not_set_it() {
    let (search, _) = run(|request| if request.rate > 55_000 { LATE } else { share(1000) });
    let Finding::Found { rate_per_s, bound, .. } = search.finding() else {
        panic!("{:?}", search.finding());
    };
    assert!((52_000..=55_000).contains(&rate_per_s), "{rate_per_s}");
    assert!(matches!(bound, Bound::GeneratorLate(55_001..=58_000)), "{bound:?}");
    // Late at a low rate, where the latencies are shortest: the higher rates count.
    let (search, _) = run(|request| if request.rate < 15_000 { LATE } else { sharp(request) });
    assert_eq!(search.standing(10_000), Some(Standing::Late));
    assert!(found(&search).is_some_and(|rate| rate > 66_000));
    let (search, _) = run(|_| LATE);
    assert_eq!(search.finding(), Finding::Unknown);
    let (search, _) = run(|request| if request.rate < 15_000 { LATE } else { share(500) });
    assert_eq!(search.finding(), Finding::Unknown, "it may hold at 10,000");
    let (search, _) = run(|request| match request.purpose {
        Purpose::Confirm => LATE,
        _ => sharp(request),
    });
    assert!(found(&search).is_none(), "unconfirmed: {:?}", search.finding());
}

#[test]
fn confidence_is_that_of_a_binomial_distribution() {
    for (held, of, expected) in
        [(1, 1, 50_000), (3, 3, 368_403), (10, 10, 741_134), (2, 3, 135_350), (0, 3, 0), (0, 0, 0)]
    {
        let found = at_least(held, of);
        assert!(found.abs_diff(expected) <= 1, "{held} of {of}: {found}");
    }
}
