//! The sidecar of a GGUF: a JSON file that says which bytes of the GGUF belong to which slot of depth.
//!
//! `schema` has the fields of the JSON, `measure` computes them from the tensor table of a GGUF, and `check` compares a
//! sidecar with a GGUF.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use srd_rs::formats::gguf::Gguf;
//! use srd_rs::met::sidecar::{Options, Part, Sidecar, sidecar_path};
//!
//! let gguf = Gguf::open("model.gguf")?;
//! let sidecar = Sidecar::measure(&gguf, &Options::default())?;
//! println!("{} bytes belong to no layer", sidecar.bytes(Part::Embedding));
//! std::fs::write(sidecar_path(Path::new("model.gguf")), sidecar.to_json())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod measure;
mod schema;

pub use measure::{Options, TABLES, file_sha256};
pub use schema::{
    Access, AccessFacts, Budget, ByteRange, EmbeddingSlot, ExpertHeat, FileFacts, Known, LayerRange,
    MET_VERSION, ModelFacts, Moe, OLDEST_VERSION, Part, Sidecar, SlotFacts, TableFacts, TensorFacts,
    sidecar_path,
};

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::error::Error;
    use crate::formats::gguf::Gguf;
    use crate::met::policy::{Intent, Policy};
    use crate::met::slots::Slot;
    use crate::met::testing::Model;
    use crate::progress::Progress;
    use crate::sign::{sha256, to_hex};
    use proptest::prelude::*;

    fn measured(model: &Model) -> (tempfile::TempDir, Gguf, Sidecar) {
        let dir = tempfile::tempdir().unwrap();
        let gguf = Gguf::open(model.write(dir.path())).unwrap();
        let sidecar = Sidecar::measure(&gguf, &Options::default()).unwrap();
        (dir, gguf, sidecar)
    }

    fn written(dir: &tempfile::TempDir, sidecar: &Sidecar) -> PathBuf {
        let path = dir.path().join("x.met.json");
        std::fs::write(&path, sidecar.to_json()).unwrap();
        path
    }

    /// Every byte of the file is in exactly one range.
    fn assert_covers(s: &Sidecar) {
        let mut ranges: Vec<_> = Part::all().flat_map(|p| s.ranges(p)).map(|r| r.range()).collect();
        ranges.sort_by_key(|r| r.start);
        let mut next = 0;
        for r in ranges {
            assert_eq!(r.start, next);
            next = r.end;
        }
        assert_eq!(next, s.file.bytes);
        assert_eq!(s.embedding_slot.bytes + s.slots.values().map(|f| f.bytes).sum::<u64>(), s.file.bytes);
        assert_eq!(s.intent_ram_budget[&Intent::Harm].bytes, s.file.bytes);
    }

    #[test]
    fn dense() {
        let (_dir, gguf, s) = measured(&Model::dense(10));
        assert_covers(&s);
        assert_eq!(s.moe, None);
        let layers = Slot::ALL.map(|slot| s.slots[&slot].layers.unwrap().count);
        assert_eq!(layers, [2, 2, 4, 2]);
        assert!(s.slots.values().all(|f| f.contiguous && f.bytes == f.active_bytes));
        assert_eq!(s.chunk_map.len(), 10);
        assert_eq!(s.chunk_map[&4], Slot::Reasoning);
        assert_eq!(s.embedding_slot.byte_ranges[0].offset, 0);
        let early = &s.slots[&Slot::Early].byte_ranges[0];
        assert_eq!(early.offset, gguf.parts()[0].find("blk.0.attn_q.weight").unwrap().offset);
        assert_eq!(s.intent_ram_budget[&Intent::Inform].bytes, s.embedding_slot.bytes + early.bytes);
    }

    #[test]
    fn eight_experts_two_active() {
        let (_dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        assert_covers(&s);
        let moe = s.moe.as_ref().unwrap();
        assert_eq!((moe.num_experts, moe.experts_per_token, moe.active_frac), (8, 2, 0.25));
        assert!(moe.chunk_note.starts_with("20/20/37/23"), "{}", moe.chunk_note);
        let experts = gguf.parts()[0].find("blk.0.ffn_up_exps.weight").unwrap().bytes;
        let early = &s.slots[&Slot::Early];
        assert_eq!(early.bytes - early.active_bytes, 2 * experts / 4 * 3);
        let harm = s.intent_ram_budget[&Intent::Harm];
        assert_eq!(harm.bytes - harm.active_bytes, 10 * experts / 4 * 3);
    }

    #[test]
    fn a_split_gguf_is_measured_as_a_whole() {
        let whole = Model::dense(10);
        let (_dir, _, one) = measured(&whole);
        let dir = tempfile::tempdir().unwrap();
        let paths = whole.write_split(dir.path(), 3);
        let gguf = Gguf::open(&paths[1]).unwrap();
        let s = Sidecar::measure(&gguf, &Options::default()).unwrap();
        assert_eq!(s.files().count(), 3);
        assert_eq!((&s.chunk_map, &s.model), (&one.chunk_map, &one.model));
        // Every byte of every file is in exactly one range.
        for (number, file) in gguf.parts().iter().enumerate() {
            let all = Part::all().flat_map(|p| s.ranges(p)).filter(|r| r.file == number);
            let mut ranges: Vec<_> = all.map(|r| r.range()).collect();
            ranges.sort_by_key(|r| r.start);
            assert!(ranges.windows(2).all(|w| w[0].end == w[1].start), "{ranges:?}");
            assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, file.file_size));
        }
        let size: u64 = gguf.parts().iter().map(|f| f.file_size).sum();
        assert_eq!(s.intent_ram_budget[&Intent::Harm].bytes, size);

        let path = sidecar_path(&paths[2]);
        assert_eq!(path, sidecar_path(&paths[0]));
        std::fs::write(&path, s.to_json()).unwrap();
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, s);
        read.check(&gguf, &path).unwrap();
        let error = one.check(&gguf, &path).unwrap_err().to_string();
        assert!(error.contains("1 files") && error.contains("3 files"), "{error}");
    }

    #[test]
    fn tables_are_apart_unless_they_are_the_output_matrix() {
        let mut model = Model::moe(10, 8, 2);
        let (_dir, _, tied) = measured(&model);
        assert_eq!(tied.bytes(Part::Tables), 0);
        model.tensors.insert(0, ("output.weight".into(), vec![33, 3]));
        model.tensors.insert(2, ("per_layer_token_embd.weight".into(), vec![33, 7]));
        let (_dir, gguf, s) = measured(&model);
        let tables = ["token_embd.weight", "per_layer_token_embd.weight"]
            .map(|name| gguf.parts()[0].find(name).unwrap().bytes);
        let access = s.access.as_ref().unwrap();
        let rows = access["tables"][&Access::Rows];
        assert_eq!((rows.tensors, rows.bytes, rows.token_bytes), (2, tables.iter().sum::<u64>(), 2 * 33 * 4));
        assert_eq!(s.embedding_slot.tensors, 2);
        let experts = access["early"][&Access::Experts];
        assert_eq!(experts.token_bytes * 4, experts.bytes);
        let all: u64 = access.values().flat_map(|part| part.values()).map(|a| a.bytes).sum();
        assert_eq!(all, gguf.tensors().map(|(_, t)| t.bytes).sum::<u64>());
        // All bytes belong to one part each, and no intent needs the tables.
        let sum: u64 = Part::all().map(|p| s.bytes(p)).sum();
        assert_eq!(sum, s.file.bytes);
        assert_eq!(s.intent_ram_budget[&Intent::Harm].bytes, s.file.bytes - s.bytes(Part::Tables));
        assert!(!s.parts(Intent::Harm).unwrap().contains(&Part::Tables));
    }

    #[test]
    fn a_sidecar_of_version_1_is_read() {
        let mut model = Model::dense(10);
        model.tensors.insert(0, ("output.weight".into(), vec![33, 3]));
        let (dir, gguf, new) = measured(&model);
        let options = Options { version: Some(1), ..Options::default() };
        let old = Sidecar::measure(&gguf, &options).unwrap();
        assert!(!old.to_json().contains("tables") && !old.to_json().contains("access"));
        assert_covers(&old);
        let path = written(&dir, &old);
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, old);
        read.check(&gguf, &path).unwrap();
        assert!(new.bytes(Part::Tables) > 0 && read.bytes(Part::Tables) == 0);
        // What belongs to one version is refused in the other.
        for mixed in [
            Sidecar { met_version: 1, ..new.clone() },
            Sidecar { met_version: 3, ..old.clone() },
            Sidecar { tables: None, ..new.clone() },
        ] {
            let path = written(&dir, &mixed);
            assert!(Sidecar::read(&path).unwrap_err().to_string().contains("version 2 and later"));
        }
        let edited = Sidecar { access: Some(Default::default()), ..new };
        let path = written(&dir, &edited);
        let text = Sidecar::read(&path).unwrap().check(&gguf, &path).unwrap_err().to_string();
        assert!(text.contains("'access'"), "{text}");
    }

    #[test]
    fn a_sidecar_of_version_2_is_read() {
        let (dir, gguf, new) = measured(&Model::moe(10, 8, 2));
        let old = Sidecar::measure(&gguf, &Options { version: Some(2), ..Options::default() }).unwrap();
        assert!(!old.to_json().contains("\"error\"") && old.tensors.is_none());
        let path = written(&dir, &old);
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, old);
        read.check(&gguf, &path).unwrap();
        for mixed in [
            Sidecar { met_version: 2, ..new.clone() },
            Sidecar { met_version: 3, ..old.clone() },
            Sidecar { expert_heat: Some(ExpertHeat::default()), ..old },
        ] {
            let path = written(&dir, &mixed);
            assert!(Sidecar::read(&path).unwrap_err().to_string().contains("version 3"));
        }
    }

    #[test]
    fn what_the_conversion_knows_is_kept_and_what_fits_no_tensor_is_found() {
        let (dir, gguf, plain) = measured(&Model::moe(10, 8, 2));
        let heat = ExpertHeat { tokens: 9, layers: [(3, vec![9, 0, 1, 2, 3, 1, 1, 1])].into() };
        let known = Known {
            errors: [("blk.0.attn_q.weight".to_string(), 0.25)].into(),
            klds: [("blk.1.attn_q.weight".to_string(), 1e-9)].into(),
            expert_heat: Some(heat.clone()),
        };
        let measure = |known: &Known| {
            Sidecar::measure(&gguf, &Options { known: known.clone(), ..Options::default() }).unwrap()
        };
        let s = measure(&known);
        assert_eq!(s.known(), known);
        let path = written(&dir, &s);
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, s);
        read.check(&gguf, &path).unwrap();
        // Every tensor is listed, with its place.
        let listed = s.tensors.as_ref().unwrap();
        assert_eq!(listed.len(), gguf.tensors().count());
        for (_, t) in gguf.tensors() {
            assert_eq!((listed[&t.name].offset, listed[&t.name].bytes), (t.offset, t.bytes));
        }
        assert_eq!(
            (listed["blk.0.attn_q.weight"].error, listed["blk.0.attn_q.weight"].kld),
            (Some(0.25), None)
        );
        // What is not of this model is left out, and an edited sidecar that has it is refused.
        let with =
            |layers: &[(u32, Vec<u64>)]| ExpertHeat { tokens: 9, layers: layers.iter().cloned().collect() };
        for wrong in
            [with(&[(10, vec![1; 8])]), with(&[(0, vec![1; 7])]), with(&[(0, vec![10; 8])]), with(&[])]
        {
            assert_eq!(measure(&Known { expert_heat: Some(wrong.clone()), ..Known::default() }), plain);
            let edited = Sidecar { expert_heat: Some(wrong), ..plain.clone() };
            let text = edited.check(&gguf, &path).unwrap_err().to_string();
            assert!(text.contains("'expert_heat'"), "{text}");
        }
        let mut edited = s.clone();
        edited.tensors.as_mut().unwrap().get_mut("blk.0.attn_q.weight").unwrap().error = Some(-1.0);
        assert!(edited.check(&gguf, &path).unwrap_err().to_string().contains("'tensors'"));
        let mut edited = s;
        edited.tensors.as_mut().unwrap().get_mut("blk.0.attn_q.weight").unwrap().offset += 1;
        assert!(edited.check(&gguf, &path).unwrap_err().to_string().contains("'tensors'"));
    }

    #[test]
    fn layers_in_another_order_and_bytes_behind_the_end() {
        let mut model = Model::dense(10);
        model.tensors.reverse();
        model.appended = 77;
        let (_dir, gguf, s) = measured(&model);
        assert_covers(&s);
        assert_eq!(s.embedding_slot.byte_ranges.last().unwrap().range().end, gguf.parts()[0].file_size);
        // One tensor of layer 0 at the other end of the file.
        let first = model.tensors.pop().unwrap();
        model.tensors.insert(0, first);
        let (_dir, _, s) = measured(&model);
        assert_covers(&s);
    }

    #[test]
    fn a_sidecar_is_read_back_and_fits_its_file_alone() {
        let (dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        let path = written(&dir, &s);
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read, s);
        read.check(&gguf, &path).unwrap();

        let (_other_dir, other, _) = measured(&Model::moe(12, 8, 2));
        let text = read.check(&other, &path).unwrap_err().to_string();
        assert!(text.contains("bytes") && text.contains("srd-rs met"), "{text}");

        let mut renamed = Model::moe(10, 8, 2);
        renamed.tensors[0].0 = "token_embe.weight".into();
        let (_dir, same_size, _) = measured(&renamed);
        assert_eq!(same_size.parts()[0].file_size, gguf.parts()[0].file_size);
        let text = read.check(&same_size, &path).unwrap_err().to_string();
        assert!(text.contains("different header"), "{text}");
    }

    #[test]
    fn an_edited_sidecar_is_found() {
        let (dir, gguf, s) = measured(&Model::moe(10, 8, 2));
        let path = written(&dir, &s);
        type Edit<'a> = (&'a str, &'a dyn Fn(&mut Sidecar));
        let edits: [Edit<'_>; 7] = [
            ("embedding_slot", &|s| s.embedding_slot.byte_ranges[0].bytes += 1),
            ("slots", &|s| s.slots.get_mut(&Slot::Early).unwrap().bytes -= 1),
            ("slots", &|s| s.slots.get_mut(&Slot::Factual).unwrap().byte_ranges[0].offset = u64::MAX),
            ("chunk_map", &|s| {
                s.chunk_map.insert(0, Slot::Governance);
            }),
            ("intent_ram_budget", &|s| s.intent_ram_budget.get_mut(&Intent::Inform).unwrap().bytes = 1),
            ("moe", &|s| s.moe.as_mut().unwrap().active_frac = 0.5),
            ("slots that are not", &|s| {
                s.slots.get_mut(&Slot::Early).unwrap().layers.as_mut().unwrap().last = 5
            }),
        ];
        for (field, edit) in edits {
            let mut edited = s.clone();
            edit(&mut edited);
            let text = edited.check(&gguf, &path).unwrap_err().to_string();
            assert!(text.contains(field), "{field}: {text}");
        }
        // A policy of one's own is no damage, as long as the budget goes with it.
        let policy = Policy::from([(Intent::Inform, vec![Slot::Factual])]);
        let options = Options { policy: Some(policy), ..Options::default() };
        let own = Sidecar::measure(&gguf, &options).unwrap();
        own.check(&gguf, &path).unwrap();
        assert!(matches!(own.parts(Intent::Harm), Err(Error::Usage { .. })));
    }

    #[test]
    fn files_that_are_no_sidecar() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.met.json");
        let (_dir, _, s) = measured(&Model::dense(4));
        let newer = s.to_json().replacen("\"met_version\": 3", "\"met_version\": 4", 1);
        let cut = s.to_json()[..300].to_string();
        for (text, what) in [
            ("", "not a MET sidecar"),
            ("{}", "met_version"),
            ("[1]", "not a sound MET sidecar"),
            (cut.as_str(), "not a MET sidecar"),
            ("{\"met_version\": 1}", "not a sound MET sidecar"),
            (newer.as_str(), "version 4"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Sidecar::read(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(what), "{error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(Sidecar::read(&path), Err(Error::Format { .. })));
        assert!(matches!(Sidecar::read(&dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn models_that_have_no_sidecar() {
        let refused = |model: &Model| {
            let dir = tempfile::tempdir().unwrap();
            let gguf = Gguf::open(model.write(dir.path())).unwrap();
            Sidecar::measure(&gguf, &Options::default()).unwrap_err().to_string()
        };
        let mut none = Model::dense(2);
        none.tensors.retain(|(name, _)| !name.starts_with("blk."));
        assert!(refused(&none).contains("no layers"));
        let mut few = Model::dense(4);
        few.n_layer = 2;
        assert!(refused(&few).contains("layer 2, but the model has 2"));
        let mut many = Model::dense(4);
        many.n_layer = u32::MAX;
        assert!(refused(&many).contains("states 4294967295 layers"));
        assert!(refused(&Model::moe(4, 8, 9)).contains("uses 9"));
    }

    #[test]
    fn the_digest_is_that_of_the_file() {
        let (_dir, gguf, s) = measured(&Model::dense(2));
        let bytes = std::fs::read(gguf.path()).unwrap();
        let hex = |b: &[u8]| to_hex(&sha256(&[b]));
        assert_eq!(file_sha256(&gguf.parts()[0], &Progress::default()).unwrap(), hex(&bytes));
        assert_eq!(s.file.header_sha256, hex(&bytes[..gguf.parts()[0].data_offset as usize]));
        let cancelled = Progress::default();
        cancelled.cancel();
        assert!(matches!(file_sha256(&gguf.parts()[0], &cancelled), Err(Error::Interrupted)));

        let checked = |s: &Sidecar| s.check_weights(&gguf, Path::new("x.json"), &Progress::default());
        assert!(checked(&s).unwrap_err().to_string().contains("no SHA-256"));
        let mut with = s.clone();
        with.file.sha256 = Some(hex(&bytes));
        checked(&with).unwrap();
        let mut changed = bytes;
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(gguf.path(), changed).unwrap();
        with.check(&Gguf::open(gguf.path()).unwrap(), Path::new("x.json")).unwrap();
        assert!(checked(&with).unwrap_err().to_string().contains("other weights"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_depth_and_order_covers_the_file(
            n in 1u32..=200, experts in prop::option::of(1u64..9), seed in any::<u64>(), shuffled in any::<bool>(),
        ) {
            let mut model = experts.map_or_else(|| Model::dense(n), |e| Model::moe(n, e, 1));
            if shuffled {
                model.tensors.sort_by_key(|(name, _)| {
                    name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
                });
            }
            let (dir, gguf, s) = measured(&model);
            assert_covers(&s);
            prop_assert!(shuffled || s.slots.values().all(|f| f.contiguous));
            prop_assert_eq!(s.slots.values().filter_map(|f| f.layers).map(|l| l.count).sum::<u32>(), n);
            let path = written(&dir, &s);
            Sidecar::read(&path).unwrap().check(&gguf, &path).unwrap();
        }
    }
}
