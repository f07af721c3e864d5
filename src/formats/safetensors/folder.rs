//! Finds the files of a checkpoint: one file, the shards that an index names, or the shards of a folder that are numbered
//! `-00001-of-00004`.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::Checkpoint;
use super::header::{bare_message, byte_of, shorten};
use crate::error::{Error, Place, Result};
use crate::formats::source::{open_input, open_regular};
use crate::input::Input;
use crate::input::remote::Remote;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Kinds of second copies of the weights, as the names of their files have them: `model.fp16.safetensors`.
pub const VARIANTS: [&str; 7] = ["fp16", "bf16", "fp32", "fp8", "int8", "ema", "non_ema"];

/// Largest index that is read, in bytes. The index of a model of 100 000 tensors has 10 MB.
pub const MAX_INDEX: u64 = 100_000_000;

/// The shards, in order, and the index that named them. A remote shard has no folder.
pub(super) struct Found {
    pub shards: Vec<PathBuf>,
    pub index: Option<Index>,
}

impl Found {
    fn single(path: PathBuf) -> Self {
        Self { shards: vec![path], index: None }
    }

    /// Opens the shards. Of remote shards the starts are fetched together.
    pub fn open(&self, remote: Option<&Arc<Remote>>) -> Result<Vec<Input>> {
        let Some(remote) = remote else { return self.shards.iter().map(|path| open_input(path)).collect() };
        let name =
            |path: &PathBuf| path.strip_prefix(remote.label()).unwrap_or(path).to_string_lossy().into_owned();
        let files = self.shards.iter().map(|path| {
            let missing = || Error::model(Place::file(path), "is not on the hub", "Check the revision");
            remote.find(&name(path)).ok_or_else(missing)
        });
        let files = files.collect::<Result<Vec<_>>>()?;
        remote.fetch_heads(&files.iter().map(|f| f.index()).collect::<Vec<_>>());
        Ok(files.into_iter().map(Input::remote).collect())
    }
}

/// Finds the files of the checkpoint at `path`, a file or a folder. Of a remote checkpoint the folder holds the index, and
/// `remote` the shards.
pub(super) fn find(path: &Path, remote: Option<&Arc<Remote>>) -> Result<Found> {
    if let Some(remote) = remote {
        return find_remote(path, remote);
    }
    let facts = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_dir() {
        return Ok(Found::single(path.to_path_buf()));
    }
    // A dangling link counts as present, so that opening it says what is missing.
    let present = |name: &str| path.join(name).symlink_metadata().is_ok();
    if present(SINGLE) {
        return Ok(Found::single(path.join(SINGLE)));
    }
    if present(INDEX) {
        // Any other failure is reported when the shard is opened.
        let is_there = |name: &str| !matches!(path.join(name).try_exists(), Ok(false));
        let index = Index::read(&path.join(INDEX), &is_there)?;
        let shards = index.shards.iter().map(|s| path.join(s)).collect();
        return Ok(Found { shards, index: Some(index) });
    }
    let names = without_second_copies(safetensors_names(path)?);
    Ok(Found { shards: without_index(path, names)?, index: None })
}

fn find_remote(folder: &Path, remote: &Arc<Remote>) -> Result<Found> {
    let is_there = |name: &str| remote.find(name).is_some();
    let label = Path::new(remote.label());
    if is_there(SINGLE) {
        return Ok(Found::single(label.join(SINGLE)));
    }
    if folder.join(INDEX).symlink_metadata().is_ok() {
        let index = Index::read(&folder.join(INDEX), &is_there)?;
        let shards = index.shards.iter().map(|s| label.join(s)).collect();
        return Ok(Found { shards, index: Some(index) });
    }
    let mut names: Vec<String> =
        remote.names().filter(|name| !name.starts_with('.')).map(str::to_string).collect();
    names.sort_unstable();
    Ok(Found { shards: without_index(label, without_second_copies(names))?, index: None })
}

/// Leaves out adapters and second copies of the weights where there are other weights, as a download from the hub does.
fn without_second_copies(names: Vec<String>) -> Vec<String> {
    let kept: Vec<String> = names.iter().filter(|name| !is_second_copy(name)).cloned().collect();
    if kept.is_empty() { names } else { kept }
}

/// Whether a file of weights is an adapter, a model in the format of Mistral, or a variant.
fn is_second_copy(name: &str) -> bool {
    let is_variant = |kind: &&str| [".", "-"].iter().any(|end| name.contains(&format!(".{kind}{end}")));
    name.starts_with("adapter") || name.starts_with("consolidated") || VARIANTS.iter().any(is_variant)
}

/// Returns the shards of a folder without the usual names: the only safetensors file, or a complete numbered set. `names` are
/// the names of its safetensors files, sorted.
fn without_index(folder: &Path, names: Vec<String>) -> Result<Vec<PathBuf>> {
    if let [only] = names.as_slice()
        && numbering(only).is_none()
    {
        return Ok(vec![folder.join(only)]);
    }
    let mut sets: BTreeMap<(String, u32), Vec<(u32, &str)>> = BTreeMap::new();
    for name in &names {
        if let Some((stem, number, count)) = numbering(name) {
            sets.entry((stem.to_string(), count)).or_default().push((number, name));
        }
    }
    let place = Place::file(folder);
    if sets.len() > 1 || sets.is_empty() && !names.is_empty() {
        let what = format!("holds {} safetensors files that are not one model", names.len());
        return Err(Error::model(place, what, format!("Add {INDEX}, or name one file")));
    }
    let Some(((_, count), mut set)) = sets.into_iter().next() else {
        return Err(no_weights(folder));
    };
    set.sort_unstable();
    let complete = set.len() as u64 == u64::from(count) && set.iter().zip(1..).all(|(s, i)| s.0 == i);
    if !complete {
        let what = format!("holds {} of {count} numbered safetensors files", set.len());
        return Err(Error::format(place, what, "Download the missing ones"));
    }
    Ok(set.into_iter().map(|(_, name)| folder.join(name)).collect())
}

fn no_weights(folder: &Path) -> Error {
    let pickled =
        ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|n| folder.join(n).exists());
    let fix = if pickled {
        "Name the whole model folder with config.json, from which pickled weights are read"
    } else {
        "Give the folder of a Hugging Face checkpoint with its weights"
    };
    Error::model(Place::file(folder), "holds no safetensors weights", fix)
}

fn safetensors_names(folder: &Path) -> Result<Vec<String>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))?;
    let mut names = Vec::new();
    for entry in list {
        let name = entry.map_err(|e| Error::io(folder, "list", e))?.file_name();
        if Path::new(&name).extension() == Some(OsStr::new("safetensors"))
            && let Some(name) = name.to_str()
            && !name.starts_with('.')
        {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Parses the name of a shard: `model-00002-of-00004.safetensors` is `("model", 2, 4)`.
fn numbering(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, number.parse().ok()?, count.parse().ok()?))
}

/// `model.safetensors.index.json`: which tensor lies in which shard.
pub(super) struct Index {
    path: PathBuf,
    /// Names of the shards below the folder, sorted. Each name occurs once.
    shards: Vec<String>,
    /// Index into `shards` for every tensor.
    weight_map: HashMap<String, usize>,
}

impl Index {
    fn read(path: &Path, is_there: &dyn Fn(&str) -> bool) -> Result<Self> {
        let json = read_capped(path)?;
        let mut raw = RawIndex::default();
        let mut parser = serde_json::Deserializer::from_slice(&json);
        parser.deserialize_map(&mut raw).and_then(|()| parser.end()).map_err(|e| {
            let place = Place::file(path).at(byte_of(&json, &e));
            Error::format(place, format!("not a valid index: {}", bare_message(&e)), "Download it again")
        })?;
        let Some(weight_map) = raw.weight_map else {
            return Err(Error::format(Place::file(path), "has no weight_map", "Download it again"));
        };
        Self::build(path, raw.shards, weight_map, is_there)
    }

    /// Numbers the shards in the order of their names.
    fn build(
        path: &Path,
        found: Vec<String>,
        mut weight_map: HashMap<String, usize>,
        is_there: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        if found.is_empty() {
            return Err(Error::format(Place::file(path), "names no shard", "Download it again"));
        }
        for name in &found {
            check_shard_name(path, name, is_there)?;
        }
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_by(|&a, &b| found[a].cmp(&found[b]));
        let mut rank = vec![0; found.len()];
        for (new, &old) in order.iter().enumerate() {
            rank[old] = new;
        }
        weight_map.values_mut().for_each(|shard| *shard = rank[*shard]);
        let mut shards = found;
        shards.sort_unstable();
        Ok(Self { path: path.to_path_buf(), shards, weight_map })
    }

    /// The index and the shards must name the same tensors in the same places. An output matrix (`lm_head.weight`)
    /// may stand in the index alone: writers that drop a tied matrix from the shards leave its entry in the index,
    /// and whether the model needs the matrix is known where the tensors of the model are declared.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let wrong = |name: &str, what| {
            let place = Place::file(&self.path).tensor(name);
            Err(Error::format(place, what, "Download the index and the shards of one revision again"))
        };
        for tensor in checkpoint.tensors() {
            let lies_in = &self.shards[tensor.shard];
            match self.weight_map.get(&tensor.name) {
                None => return wrong(&tensor.name, format!("is in {lies_in}, but not in the index")),
                Some(&shard) if shard != tensor.shard => {
                    let said = &self.shards[shard];
                    return wrong(&tensor.name, format!("is said to be in {said}, but is in {lies_in}"));
                }
                Some(_) => {}
            }
        }
        // Sorted, so that the same index always gives the same message.
        let mut absent: Vec<&String> =
            self.weight_map.keys().filter(|n| checkpoint.find(n).is_none() && !is_output_matrix(n)).collect();
        absent.sort_unstable();
        match absent.first() {
            None => Ok(()),
            Some(name) => {
                let said = &self.shards[self.weight_map[*name]];
                wrong(name, format!("is said to be in {said}, which does not have it"))
            }
        }
    }
}

/// Whether a tensor of this name may be a second name of the embedding, as it is in a tied model.
fn is_output_matrix(name: &str) -> bool {
    name.rsplit('.').nth(1) == Some("lm_head") && name.ends_with(".weight")
}

fn read_capped(path: &Path) -> Result<Vec<u8>> {
    let (file, size) = open_regular(path)?;
    if size > MAX_INDEX {
        let what = format!("the index has {size} bytes, more than the {MAX_INDEX} that are read");
        return Err(Error::format(Place::file(path), what, "Download it again"));
    }
    let mut json = Vec::with_capacity(size as usize);
    file.take(MAX_INDEX).read_to_end(&mut json).map_err(|e| Error::io(path, "read", e))?;
    if json.starts_with(b"version https://git-lfs.github.com/spec/") {
        let what = "this is a Git LFS pointer, which stands for a file that was not downloaded";
        return Err(Error::model(Place::file(path), what, "Run: git lfs pull"));
    }
    Ok(json)
}

/// Checks that a shard lies below the folder by its name, and that the shard exists. A link may point anywhere, because
/// download caches link every file.
fn check_shard_name(index: &Path, name: &str, is_there: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut components = Path::new(name).components();
    let inside = !name.is_empty() && components.all(|c| matches!(c, Component::Normal(_)));
    let shown = shorten(name);
    if !inside || name.contains('\\') || name.contains('\0') {
        let what = format!("names the shard '{shown}', which is not inside the folder");
        return Err(Error::format(Place::file(index), what, "Do not use this checkpoint"));
    }
    if !name.ends_with(".safetensors") {
        let what = format!("names the shard '{shown}', which is no safetensors file");
        return Err(Error::format(Place::file(index), what, "Use a checkpoint saved as safetensors"));
    }
    if !is_there(name) {
        let what = format!("names the shard '{shown}', which is missing");
        return Err(Error::format(Place::file(index), what, "Download it"));
    }
    Ok(())
}

/// Visits the top-level object of the index.
#[derive(Default)]
struct RawIndex {
    /// Entries in the order of the file.
    shards: Vec<String>,
    weight_map: Option<HashMap<String, usize>>,
}

impl<'de> Visitor<'de> for &mut RawIndex {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if self.weight_map.is_some() {
                return Err(de::Error::custom("weight_map occurs twice"));
            }
            self.weight_map = Some(map.next_value_seed(WeightMap { shards: &mut self.shards })?);
        }
        Ok(())
    }
}

/// Visits `weight_map`: the file name of each tensor. No tensor may occur twice.
struct WeightMap<'a> {
    shards: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = HashMap<String, usize>;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = HashMap<String, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut tensors = HashMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            let next = self.shards.len();
            let shard = *numbers.entry(file).or_insert_with_key(|file| {
                self.shards.push(file.clone());
                next
            });
            if tensors.contains_key(&tensor) {
                let what = format!("tensor '{}' occurs twice", shorten(&tensor));
                return Err(de::Error::custom(what));
            }
            tensors.insert(tensor, shard);
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_taken_apart() {
        assert_eq!(numbering("model-00002-of-00004.safetensors"), Some(("model", 2, 4)));
        assert_eq!(numbering("a-b-1-of-1.safetensors"), Some(("a-b", 1, 1)));
        assert_eq!(numbering("model.safetensors"), None);
        assert_eq!(numbering("model-x-of-2.safetensors"), None);
    }

    #[test]
    fn second_copies_do_not_count_beside_the_weights() {
        let copies =
            ["adapter_model.safetensors", "consolidated.safetensors", "m.bf16-00001-of-00002.safetensors"];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        let mut all = names(&copies);
        all.push("weights.safetensors".into());
        assert_eq!(without_second_copies(all), ["weights.safetensors"]);
        assert_eq!(without_second_copies(names(&copies)), copies);
        assert!(!is_second_copy("Qwen-bf16.safetensors") && is_second_copy("m.fp16.safetensors"));
    }
}
