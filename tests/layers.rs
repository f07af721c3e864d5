//! The modules of `src/` lie in the layers of docs/architecture.md. A module uses modules of its own layer or of a lower
//! one, and no modules use each other in a circle.
//!
//! A parent and its children may use each other: a parent re-exports what its children define. A name that is re-exported
//! counts as the module that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use regex::Regex;

type Module = Vec<String>;

/// Returns the layer of every top-level module, from the table of the document. Higher layers use lower ones.
fn layers() -> &'static [(usize, Vec<String>)] {
    static LAYERS: OnceLock<Vec<(usize, Vec<String>)>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let text = include_str!("../docs/architecture.md");
        let section = text.split("## Layers of the crate").nth(1).expect("the document has the section");
        let section = section.split("\n## ").next().expect("a section has text");
        let row = Regex::new(r"(?m)^\| (\d+) \| ([^|]*) \|").unwrap();
        let name = Regex::new(r"`(\w+)`").unwrap();
        let names = |cell: &str| name.captures_iter(cell).map(|c| c[1].to_string()).collect();
        row.captures_iter(section).map(|c| (c[1].parse().unwrap(), names(&c[2]))).collect()
    })
}

/// Which module uses which, by path below the crate.
struct Uses {
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

fn layer_of(module: &Module) -> Option<usize> {
    let top = module.first()?;
    layers().iter().find(|(_, names)| names.contains(top)).map(|(layer, _)| *layer)
}

fn text_of(module: &Module) -> String {
    module.join("::")
}

/// The code of a file that is compiled into the crate: no comments and no tests.
fn code_of(text: &str) -> String {
    let text =
        Regex::new(r"(?s)#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?mod \w+ \{.*").unwrap().replace(text, "");
    let text = Regex::new(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?(use|mod) [^;]*;")
        .unwrap()
        .replace_all(&text, "")
        .into_owned();
    Regex::new(r"(?m)//.*$").unwrap().replace_all(&text, "").into_owned()
}

/// `a::{b, c::{d, e as f}}` -> `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        return vec![tree.split(" as ").next().unwrap_or(tree).trim().to_string()];
    };
    let (prefix, inner) = (&tree[..open], &tree[open + 1..tree.rfind('}').expect("braces are closed")]);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|p| !p.trim().is_empty()).flat_map(expand);
    parts.map(|p| format!("{prefix}{p}").replace("::self", "")).collect()
}

/// All paths that a file names, from the root of the crate.
fn paths_of(module: &Module, code: &str, with_reexports: bool) -> Vec<(Module, bool)> {
    let statement = Regex::new(r"(?s)\b(pub(?:\([^)]*\))? )?use ([\w:{},\s*]+);").unwrap();
    let inline = Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap();
    let uses = statement.captures_iter(code).flat_map(|c| {
        let public = c.get(1).is_some();
        expand(&c[2]).into_iter().map(move |path| (path, public)).collect::<Vec<_>>()
    });
    let rest = statement.replace_all(code, "");
    let inline: Vec<_> = inline.find_iter(&rest).map(|m| (m.as_str().to_string(), false)).collect();
    let absolute = |(path, public): (String, bool)| {
        let mut parts: Vec<&str> = path.split("::").collect();
        let mut base = module.clone();
        match parts[0] {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                while parts.first() == Some(&"super") {
                    parts.remove(0);
                    base.pop();
                }
                parts.insert(0, "");
            }
            _ if public && with_reexports => parts.insert(0, ""),
            _ => return None,
        }
        base.extend(parts[1..].iter().map(ToString::to_string));
        Some((base, public))
    };
    uses.chain(inline).filter_map(absolute).collect()
}

impl Uses {
    /// `files`: module path and text.
    fn of(files: &BTreeMap<Module, String>) -> Self {
        let code: BTreeMap<_, _> = files.iter().map(|(m, text)| (m.clone(), code_of(text))).collect();
        // Name in a parent -> where it is defined.
        let mut reexports: BTreeMap<Module, Module> = BTreeMap::new();
        for (module, code) in &code {
            for (path, public) in paths_of(module, code, true) {
                if public && path.len() > module.len() && path.starts_with(module) {
                    let name = [module.as_slice(), &path[path.len() - 1..]].concat();
                    reexports.insert(name, path);
                }
            }
        }
        let resolve = |path: &Module| -> Option<Module> {
            let mut path = path.clone();
            for _ in 0..8 {
                let longest =
                    (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|p| code.contains_key(p))?;
                if longest.len() == path.len() {
                    return Some(longest);
                }
                match reexports.get(&path[..longest.len() + 1]) {
                    Some(target) if *target != path => {
                        path = [target.as_slice(), &path[longest.len() + 1..]].concat();
                    }
                    _ => return Some(longest),
                }
            }
            None
        };
        let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, code) in &code {
            let used = edges.entry(module.clone()).or_default();
            for (path, _) in paths_of(module, code, false) {
                if let Some(target) = resolve(&path)
                    && !target.starts_with(module)
                    && !module.starts_with(&target)
                {
                    used.insert(target);
                }
            }
        }
        Self { edges }
    }

    /// Uses of a higher layer, and modules without a layer.
    fn upward(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (module, targets) in &self.edges {
            let Some(layer) = layer_of(module) else {
                if !module.is_empty() {
                    faults.push(format!("{} is in no layer", text_of(module)));
                }
                continue;
            };
            let above = targets.iter().filter(|t| layer_of(t).is_some_and(|l| l > layer));
            faults.extend(above.map(|t| format!("{} (layer {layer}) uses {}", text_of(module), text_of(t))));
        }
        faults
    }

    /// A circle of modules, if there is one.
    fn circle(&self) -> Option<Vec<String>> {
        fn visit(
            uses: &Uses,
            at: &Module,
            path: &mut Vec<Module>,
            done: &mut BTreeSet<Module>,
        ) -> Option<Vec<String>> {
            if let Some(first) = path.iter().position(|m| m == at) {
                return Some(path[first..].iter().chain([at]).map(text_of).collect());
            }
            if done.contains(at) {
                return None;
            }
            path.push(at.clone());
            for target in uses.edges.get(at).into_iter().flatten() {
                if let Some(circle) = visit(uses, target, path, done) {
                    return Some(circle);
                }
            }
            path.pop();
            done.insert(at.clone());
            None
        }
        let mut done = BTreeSet::new();
        self.edges.keys().find_map(|module| visit(self, module, &mut Vec::new(), &mut done))
    }
}

/// The files of a folder as modules. Files that hold only tests are left out.
fn files_below(folder: &Path, module: &Module, out: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files_below(&path, &[module.as_slice(), &[stem]].concat(), out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let test_only = stem == "tests" || stem == "testing" || stem.ends_with("_tests");
            let is_parent = stem == "mod" || stem == "lib";
            let name = if is_parent { module.clone() } else { [module.as_slice(), &[stem]].concat() };
            if !test_only {
                out.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}

fn uses_of_the_crate() -> Uses {
    let mut files = BTreeMap::new();
    files_below(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &Vec::new(), &mut files);
    Uses::of(&files)
}

#[test]
fn modules_use_lower_layers_only() {
    let uses = uses_of_the_crate();
    assert_eq!(layers().len(), 9, "the table of docs/architecture.md was not read");
    for (layer, names) in layers() {
        for name in names {
            let own = uses.edges.iter().filter(|(m, _)| m.first() == Some(name));
            let targets: BTreeSet<_> = own.flat_map(|(_, t)| t).filter_map(|t| t.first()).collect();
            let targets: Vec<_> = targets.into_iter().filter(|t| *t != name).map(String::as_str).collect();
            println!("{layer}  {name:<10} uses {}", targets.join(" "));
        }
    }
    assert_eq!(uses.upward(), Vec::<String>::new());
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let uses = uses_of_the_crate();
    assert!(uses.edges.values().map(BTreeSet::len).sum::<usize>() > 300, "the checker sees hardly any use");
    if let Some(circle) = uses.circle() {
        panic!("a circle: {}", circle.join(" -> "));
    }
}

fn made_up(files: &[(&str, &str)]) -> Uses {
    let module = |name: &str| name.split("::").map(str::to_string).collect();
    Uses::of(&files.iter().map(|(name, text)| (module(name), text.to_string())).collect())
}

#[test]
fn the_checker_finds_a_circle() {
    let uses = made_up(&[
        ("quant", "mod a; mod b;"),
        ("quant::a", "use super::b::B;"),
        ("quant::b", "fn f() -> u8 { crate::quant::c::d() }"),
        ("quant::c", "use crate::{error::Error, quant::{a::A}};"),
        ("error", ""),
    ]);
    assert_eq!(uses.circle().unwrap(), ["quant::a", "quant::b", "quant::c", "quant::a"]);
}

#[test]
fn the_checker_sees_through_re_exports() {
    let uses = made_up(&[
        ("quant", "mod a; pub use a::A;"),
        ("quant::a", "use crate::linalg::L;"),
        ("linalg", "use crate::quant::A;"),
    ]);
    assert_eq!(uses.circle().unwrap(), ["linalg", "quant::a", "linalg"]);
}

#[test]
fn parents_comments_and_tests_make_no_circle() {
    let uses = made_up(&[
        ("quant", "mod a; pub use a::A; use crate::error::Error;"),
        (
            "quant::a",
            "use super::MAX;\n// crate::convert\n#[cfg(test)]\nmod tests { use crate::convert::Plan; }",
        ),
        ("error", "/// See crate::quant::a.\npub struct Error;"),
        ("convert", "use crate::quant::A;"),
    ]);
    assert_eq!(uses.circle(), None);
    assert_eq!(uses.upward(), Vec::<String>::new());
}

#[test]
fn the_checker_finds_a_use_of_a_higher_layer() {
    let uses = made_up(&[("formats", "use crate::convert::Plan;"), ("convert", ""), ("rooms", "")]);
    assert_eq!(uses.upward(), ["formats (layer 2) uses convert", "rooms is in no layer"]);
}
