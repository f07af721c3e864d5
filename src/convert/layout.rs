//! Where every tensor lies: the files of the GGUF, the offsets in them, and the container beside them.

use crate::convert::container;
use crate::convert::options::{ContainerOptions, PlanOptions};
use crate::convert::planned::{PlannedContainer, PlannedFile, PlannedTensor};
use crate::error::{Error, Result};
use crate::formats::gguf::split::part_path;
use crate::formats::gguf::values::{KeyValues, Value};
use crate::formats::gguf::writer::{self, TensorHeader};
use crate::formats::gguf::{DEFAULT_ALIGNMENT, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
use crate::sign::to_hex;

/// The files of a plan, and its container if there is one.
pub type Layout = (Vec<PlannedFile>, Option<PlannedContainer>);

/// Gives every tensor its file and offset, and plans the container where one is wanted.
///
/// # Errors
/// [`Error::Usage`] when the tensors do not fit the size of the parts; [`Error::Model`] when the container would be too
/// large.
pub fn lay_out(
    tensors: &mut [PlannedTensor],
    metadata: &KeyValues,
    arch: &str,
    options: &PlanOptions,
) -> Result<Layout> {
    match &options.container {
        Some(wanted) => {
            let (files, container) = lay_out_both(tensors, metadata.clone(), options, wanted, arch)?;
            Ok((files, Some(container)))
        }
        None => Ok((lay_out_files(tensors, metadata.clone(), options)?, None)),
    }
}

/// The GGUF names its container by an id. The id is made from everything else in the header of the GGUF, so the GGUF is
/// laid out twice.
fn lay_out_both(
    tensors: &mut [PlannedTensor],
    mut metadata: KeyValues,
    options: &PlanOptions,
    wanted: &ContainerOptions,
    arch: &str,
) -> Result<(Vec<PlannedFile>, PlannedContainer)> {
    let quant = options.recipe.name();
    metadata.remove(container::ID_KEY);
    let mut files = lay_out_files(tensors, metadata.clone(), options)?;
    let id = container::container_id(wanted, quant, &files);
    if options.provenance.is_some() {
        metadata.set(container::ID_KEY, Value::String(to_hex(&id)));
        files = lay_out_files(tensors, metadata, options)?;
    }
    let parts = container::Parts { id, arch, quant, tensors, files: &files };
    let planned = container::plan(wanted, &parts)?;
    Ok((files, planned))
}

/// Cuts the tensors into files and gives each tensor its offset.
fn lay_out_files(
    tensors: &mut [PlannedTensor],
    metadata: KeyValues,
    options: &PlanOptions,
) -> Result<Vec<PlannedFile>> {
    let groups = match options.split_max_size {
        Some(limit) => split_groups(tensors, &metadata, limit)?,
        None => std::iter::once(0..tensors.len()).collect(),
    };
    let (count, total) = (groups.len(), tensors.len());
    let mut rest = Some(metadata);
    let mut files = Vec::with_capacity(count);
    for (i, group) in groups.into_iter().enumerate() {
        // The first file carries all metadata, as llama.cpp's own splits do.
        let mut kv = rest.take().unwrap_or_default();
        let mut path = options.output.clone();
        if options.split_max_size.is_some() {
            kv.set(SPLIT_NO, Value::U16(i as u16));
            kv.set(SPLIT_COUNT, Value::U16(count as u16));
            kv.set(SPLIT_TENSORS, Value::I32(total as i32));
            path = part_path(&options.output, i, count);
        }
        let infos: Vec<_> = tensors[group.clone()]
            .iter()
            .map(|t| TensorHeader { name: &t.bound.name, ne: &t.bound.ne, ty: t.ty })
            .collect();
        let encoded = writer::encode_header(&kv, &infos)?;
        for (tensor, offset) in tensors[group].iter_mut().zip(&encoded.tensor_offsets) {
            tensor.file = i;
            tensor.offset = *offset;
        }
        files.push(PlannedFile { path, header: encoded.bytes, bytes: encoded.total_size });
    }
    Ok(files)
}

/// Cuts the tensors into consecutive groups, each of which takes at most `limit` bytes with its header.
fn split_groups(
    tensors: &[PlannedTensor],
    metadata: &KeyValues,
    limit: u64,
) -> Result<Vec<std::ops::Range<usize>>> {
    let alignment = u64::from(DEFAULT_ALIGNMENT);
    // A header that lists every tensor is at least as long as one that lists some of them.
    let all: Vec<_> =
        tensors.iter().map(|t| TensorHeader { name: &t.bound.name, ne: &t.bound.ne, ty: t.ty }).collect();
    let first_header = writer::encode_header(metadata, &all)?.bytes.len() as u64 + 256;
    let later_header = writer::encode_header(&KeyValues::default(), &all)?.bytes.len() as u64 + 256;
    let mut groups = Vec::new();
    let (mut start, mut size) = (0, first_header);
    for (i, tensor) in tensors.iter().enumerate() {
        let padded = tensor.bytes.next_multiple_of(alignment);
        let header = if groups.is_empty() { first_header } else { later_header };
        if i > start && size + padded > limit {
            groups.push(start..i);
            (start, size) = (i, later_header);
        } else if i == start && header + padded > limit {
            return Err(Error::usage(
                format!(
                    "tensor '{}' alone needs {} bytes with its header",
                    tensor.bound.name,
                    header + padded
                ),
                "Raise --split-max-size",
            ));
        }
        size += padded;
    }
    groups.push(start..tensors.len());
    if groups.len() > u16::MAX as usize {
        return Err(Error::usage("the output would have more than 65535 files", "Raise --split-max-size"));
    }
    Ok(groups)
}
