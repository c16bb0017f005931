//! Layers that come in parts, at several times, or other than asked for.

use super::*;

#[tokio::test]
async fn a_layer_that_was_cut_is_gone_on_with_by_the_next_try_and_the_next_pull() {
    let place = Place::new().await;
    let blob = place.blob(1).to_owned();
    place.registry.does_wrong(&blob, 2, Wrong::CutAfter(50_000));
    place.pull().await.unwrap();
    let ranges = |place: &Place| -> Vec<String> {
        let requests = place.registry.requests_for(&blob).into_iter();
        requests.map(|(_, range, _)| range).collect()
    };
    assert_eq!(ranges(&place), ["", "bytes=50000-", "bytes=100000-"]);
    assert_eq!(retried(&place.events), 2);

    let place = Place::new().await;
    place.registry.does_wrong(&blob, 4, Wrong::CutAfter(20_000));
    place.pull().await.unwrap_err();
    let parts = place.parts();
    assert!(parts.contains(&(blob.clone(), 80_000)), "{parts:?}");
    place.check_empty();
    // The other layers that came whole are not fetched again.
    let pulled = place.pull().await.unwrap();
    assert!(pulled.is_new);
    assert_eq!(ranges(&place).last().unwrap(), "bytes=80000-");
    assert_eq!(place.registry.requests_for(place.blob(0)).len(), 1);
    assert_eq!(place.parts(), []);
}

#[tokio::test]
async fn parts_of_any_kind_are_put_together_or_begun_anew() {
    let sizes = [0, 100_000, 200_000, 300_000].map(|from: u32| match from {
        0 => String::new(),
        from => format!("bytes={from}-"),
    });
    type Case = (Vec<(usize, Wrong)>, Vec<String>);
    let cases: [Case; 6] = [
        (vec![(1000, Wrong::Part(100_000))], sizes.to_vec()),
        (vec![(1, Wrong::Unmeasured(100_000))], sizes[..2].to_vec()),
        (
            vec![(1, Wrong::Unmeasured(usize::MAX))],
            vec![String::new()],
        ),
        // Other bytes than were asked for: all of it is asked for.
        (
            vec![(1, Wrong::CutAfter(100_000)), (1, Wrong::Elsewhere)],
            vec![String::new(), sizes[1].clone(), String::new()],
        ),
        (
            vec![(1, Wrong::CutAfter(100_000)), (1, Wrong::Whole)],
            sizes[..2].to_vec(),
        ),
        // What came first is wrong, which the digest tells.
        (
            vec![
                (1, Wrong::Part(100_000)),
                (
                    1,
                    Wrong::Changed(|mut bytes| {
                        bytes[200_000] ^= 1;
                        bytes
                    }),
                ),
            ],
            vec![String::new(), sizes[1].clone(), String::new()],
        ),
    ];
    for (wrongs, ranges) in cases {
        let place = Place::new().await;
        for (times, wrong) in wrongs {
            place.registry.does_wrong(place.blob(1), times, wrong);
        }
        place.pull().await.unwrap();
        let requests = place.registry.requests_for(place.blob(1)).into_iter();
        let asked: Vec<_> = requests.map(|(_, range, _)| range).collect();
        assert_eq!(asked, ranges);
        assert_eq!(place.parts(), []);
    }
}

#[tokio::test]
async fn lengths_that_cannot_be_counted_with_are_refused() {
    let place = Place::new().await;
    let blob = place.blob(1).to_owned();
    place
        .registry
        .does_wrong(&blob, 1, Wrong::CutAfter(100_000));
    let most = Wrong::Silence(206, u64::MAX - 3, 10);
    place.registry.does_wrong(&blob, 1000, most);
    let error = fault(&place.pull().await.unwrap_err());
    assert!(error.contains("bytes instead of 316344"), "{error}");
    assert_eq!(
        place
            .parts()
            .iter()
            .filter(|(name, _)| *name == blob)
            .count(),
        0
    );
}

#[tokio::test]
async fn what_is_there_of_a_layer_is_not_believed() {
    let place = Place::new().await;
    let whole = contents(&place.store(), &place.pull().await.unwrap());
    let size = |place: &Place| place.layout.layers[1].blob.len();
    type Kept = fn(&[u8]) -> Vec<u8>;
    let kept: [Kept; 6] = [
        |_| Vec::new(),
        |blob| blob[..1000].to_vec(),
        |blob| vec![0; blob.len() / 2],
        |blob| vec![0; blob.len()],
        |blob| vec![0; blob.len() * 2],
        |blob| blob.to_vec(),
    ];
    for (at, kept) in kept.iter().enumerate() {
        for deaf in [false, true] {
            let place = Place::new().await;
            let dir = place.store().dir().join("blobs/sha256");
            std::fs::create_dir_all(&dir).unwrap();
            let bytes = kept(&place.layout.layers[1].blob);
            std::fs::write(dir.join(place.blob(1)), bytes).unwrap();
            if deaf {
                // A registry without ranges.
                place.registry.does_wrong(place.blob(1), 1000, Wrong::Whole);
            }
            let pulled = place.pull().await.unwrap();
            let pulled = contents(&place.store(), &pulled);
            assert_eq!(pulled, whole, "{at} {deaf} of {}", size(&place));
            assert_eq!(place.parts(), []);
        }
    }
}

#[tokio::test]
async fn layers_that_nobody_goes_on_with_are_removed_after_a_week() {
    let place = Place::new().await;
    let dir = place.store().dir().join("blobs/sha256");
    std::fs::create_dir_all(&dir).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    for (name, age) in [("old", day * 8), ("new", day)] {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age)
            .unwrap();
    }
    place.pull().await.unwrap();
    assert_eq!(place.parts(), [("new".to_owned(), 0)]);
}
