//! Power failures while a store of format 1 is migrated: each image opens and is complete.

use std::{fs, path::Path};

use super::disk::{self, Cut, Disk, Op};
use crate::{
    migration::{exported, open, put_large_store},
    support::{Service, number, preloaded},
};

/// The operations that create a folder with its present content, all of it durable.
fn made(folder: &Path) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            if path.is_dir() {
                ops.push(Op::Folder(name));
                folders.push(path);
            } else {
                ops.push(Op::Create(name.clone()));
                ops.push(Op::Write(name.clone(), 0, fs::read(&path).unwrap()));
                ops.push(Op::Sync(name));
            }
        }
        ops.push(Op::Sync(next.strip_prefix(folder).unwrap().to_owned()));
    }
    ops
}

#[test]
fn everything_survives_a_power_failure_during_the_migration() {
    let seed = number("POWER_SEED", fastrand::u64(..));
    println!("POWER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut service = Service::prepare("");
    let (data, trace) = (service.path("data"), service.path("trace"));
    put_large_store(&data);
    let mut disk = Disk::new();
    made(&data).iter().for_each(|op| disk.apply(op));
    fs::write(&trace, "").unwrap();
    let env = [
        ("LD_PRELOAD", preloaded("disk.c")),
        ("DISK_FILES", data.to_str().unwrap().to_owned()),
        ("DISK_TRACE", trace.to_str().unwrap().to_owned()),
        ("DISK_IGNORES", String::new()),
        ("DISK_FAULT", service.path("fault").to_str().unwrap().to_owned()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    service.serve_with(&env);
    service.kill();
    let ops = disk::read(&fs::read(&trace).unwrap(), &data);
    let expected: Vec<_> = exported(&open(&data).unwrap()).unwrap().into_keys().collect();

    if std::env::var_os("POWER_OPS").is_some() {
        for (number, (_, op)) in ops.iter().enumerate() {
            let text = match op {
                Op::Write(path, at, bytes) => {
                    format!("write {} {at} {}", path.display(), bytes.len())
                }
                other => format!("{other:?}"),
            };
            println!("{number} {text}");
        }
    }
    let images = usize::try_from(number("POWER_IMAGES", 20)).unwrap();
    let mut at: Vec<usize> = (0..images).map(|_| random.usize(..ops.len())).collect();
    at.sort_unstable();
    let (mut done, mut wrong) = (0, Vec::new());
    for (number, op) in at.into_iter().enumerate() {
        while done <= op {
            disk.apply(&ops[done].1);
            done += 1;
        }
        let how = [Cut::Lost, Cut::Some, Cut::Torn, Cut::Kept][number % 4];
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("data");
        disk.leave(&image, how, &mut random);
        let found = open(&image).and_then(|outbox| exported(&outbox));
        match found {
            Ok(found) if found.keys().eq(&expected) => {}
            Ok(found) => {
                let (found, all) = (found.len(), expected.len());
                wrong.push(format!("after operation {op} ({how:?}): {found} of {all}"));
            }
            Err(error) => wrong.push(format!("after operation {op} ({how:?}): {error}")),
        }
    }
    println!(
        "power cuts during a migration: {images} images, {} operations, {} callbacks, {} wrong",
        ops.len(),
        expected.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}
