//! Chooses tensor types for the Python tests, which compare them with llama-quantize's.
//!
//! Reads a JSON list of cases on stdin, `{"recipe", "facts", "overrides": {"tensor_type": ["REGEX=TYPE"],
//! "token_embedding", "output_tensor", "pure"}, "tensors": [[name, [ne], type], ...]}` with the tensors in any
//! order, and prints a list with, for each, the names in file order and their types, or the error.

use serde::Deserialize;
use srd_rs::Result;
use srd_rs::dtype::GgmlType;
use srd_rs::quant::recipe::{ModelFacts, Overrides, Recipe, TensorInfo, assign, layered_order};

#[derive(Deserialize)]
struct Case {
    recipe: String,
    facts: ModelFacts,
    #[serde(default)]
    overrides: Asked,
    tensors: Vec<(String, Vec<u64>, String)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    tensor_type: Vec<String>,
    token_embedding: Option<String>,
    output_tensor: Option<String>,
    pure: bool,
}

fn overrides(asked: &Asked) -> Result<Overrides> {
    let one = |name: &Option<String>| name.as_deref().map(Overrides::parse_type).transpose();
    Ok(Overrides {
        tensor_type: asked
            .tensor_type
            .iter()
            .map(|t| Overrides::parse_tensor_type(t))
            .collect::<Result<_>>()?,
        token_embedding: one(&asked.token_embedding)?,
        output_tensor: one(&asked.output_tensor)?,
        pure: asked.pure,
    })
}

fn run(case: &Case) -> Result<serde_json::Value> {
    let names: Vec<&str> = case.tensors.iter().map(|t| t.0.as_str()).collect();
    let ordered: Vec<TensorInfo<'_>> = layered_order(&names)
        .into_iter()
        .map(|i| {
            let (name, ne, ty) = &case.tensors[i];
            TensorInfo { name, ne, stored: GgmlType::from_name(ty).expect("a known type") }
        })
        .collect();
    let recipe = Recipe::from_name(&case.recipe).expect("a known recipe");
    let types = assign(recipe, &case.facts, &overrides(&case.overrides)?, &ordered)?;
    let names: Vec<&str> = ordered.iter().map(|t| t.name).collect();
    let types: Vec<&str> = types.into_iter().map(GgmlType::name).collect();
    Ok(serde_json::json!({"file_type": recipe.file_type(), "names": names, "types": types}))
}

fn main() {
    let cases: Vec<Case> = serde_json::from_reader(std::io::stdin().lock()).expect("cases as JSON");
    let answer = |case| run(case).unwrap_or_else(|e| serde_json::json!({"error": e.to_string()}));
    let answers: Vec<serde_json::Value> = cases.iter().map(answer).collect();
    println!("{}", serde_json::Value::from(answers));
}
