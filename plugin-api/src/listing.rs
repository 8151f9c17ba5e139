//! The whole surface of the boundary as text. A copy is committed (`abi.txt`) and a test compares the two, so nothing on the boundary
//! changes by accident: what was there must stay, and what is new is seen in review.

use std::fmt::Write;

use abi_stable::{StableAbi, abi_stability::PrefixStableAbi, type_layout::TypeLayout};

use crate::{
    Batch, DType, Tensor,
    abi::{
        ABI_MAJOR, ABI_MINOR, Failure, Field, HostHandle, HostServicesPrefix, LogLevel, LogRecord,
        OpArgs, Packet, Phase, PluginModulePrefix, PluginTablePrefix, RawDevice, RawInstance,
        RawTensor, Status, TensorOpsPrefix, Value, ValueKind,
    },
    hooks, manifest, ops,
    services::{self, MessageShape, shape},
    slots,
};

/// The listing. Layouts are those of the machine it runs on; the committed copy is of a 64-bit one.
pub fn text() -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out);
    out
}

fn write(out: &mut String) -> std::fmt::Result {
    writeln!(out, "boundary {ABI_MAJOR}.{ABI_MINOR}")?;
    writeln!(
        out,
        "root symbol {}",
        abi_stable::library::ROOT_MODULE_LOADER_NAME
    )?;
    writeln!(
        out,
        "manifest {} {} {} {}",
        String::from_utf8_lossy(&manifest::MAGIC),
        manifest::SECTION_ELF,
        manifest::SECTION_MACHO,
        manifest::SECTION_COFF
    )?;

    writeln!(
        out,
        "\n# Types: name, size, alignment; then members, and for functions their arguments"
    )?;
    for layout in [
        <PluginModulePrefix as PrefixStableAbi>::LAYOUT,
        <PluginTablePrefix as PrefixStableAbi>::LAYOUT,
        <TensorOpsPrefix as PrefixStableAbi>::LAYOUT,
        <HostServicesPrefix as PrefixStableAbi>::LAYOUT,
        HostHandle::LAYOUT,
        <LogRecord<'static>>::LAYOUT,
        OpArgs::LAYOUT,
        Tensor::LAYOUT,
        Packet::LAYOUT,
        Field::LAYOUT,
        Value::LAYOUT,
        Failure::LAYOUT,
        RawTensor::LAYOUT,
        RawDevice::LAYOUT,
        RawInstance::LAYOUT,
        Status::LAYOUT,
        ValueKind::LAYOUT,
        DType::LAYOUT,
        Phase::LAYOUT,
        LogLevel::LAYOUT,
    ] {
        write_type(out, layout)?;
    }

    writeln!(
        out,
        "\n# Operations: code/revision, name, first boundary minor"
    )?;
    for op in ops::ALL {
        writeln!(out, "{}/{} {} {}", op.code, op.revision, op.name, op.since)?;
    }

    writeln!(out, "\n# Slots: code, name, sharing, first boundary minor")?;
    for slot in slots::ALL {
        writeln!(
            out,
            "{} {} {} {}",
            slot.code,
            slot.name,
            slot.mode.name(),
            slot.since
        )?;
    }

    writeln!(out, "\n# Hook calls: slot, method, question, answer")?;
    for (slot, method, question, answer) in hooks::MESSAGES {
        writeln!(out, "{} {method}", slot.name)?;
        write_messages(out, *question, *answer)?;
    }

    writeln!(out, "\n# Groups inside messages")?;
    for (name, fields) in [
        shape::<Batch>(),
        shape::<services::InitMessage>(),
        shape::<services::LayerInfo>(),
        shape::<services::ParameterInfo>(),
        shape::<hooks::Picture>(),
    ] {
        write_message(out, name, fields)?;
    }

    writeln!(
        out,
        "\n# Services: code, name, first boundary minor; question, answer"
    )?;
    for (service, question, answer) in services::MESSAGES {
        writeln!(out, "{} {} {}", service.code, service.name, service.since)?;
        write_messages(out, *question, *answer)?;
    }
    Ok(())
}

fn write_type(out: &mut String, layout: &TypeLayout) -> std::fmt::Result {
    writeln!(
        out,
        "{} {} {}",
        layout.name(),
        layout.size(),
        layout.alignment()
    )?;
    let Some(fields) = layout.get_fields() else {
        return Ok(());
    };
    for field in fields {
        if !field.is_function() {
            let ty = field.full_type().to_string();
            writeln!(out, "  {}: {}", field.name(), ty.trim_end())?;
            continue;
        }
        for function in field.function_range().iter() {
            let names = function
                .param_names
                .as_str()
                .split([',', ';'])
                .filter(|name| !name.is_empty());
            let arguments: Vec<String> = names
                .zip(function.param_type_layouts.iter())
                .map(|(name, layout)| {
                    format!("{name}: {}", layout().full_type().to_string().trim_end())
                })
                .collect();
            let result = function
                .return_type_layout()
                .map_or_else(String::new, |layout| {
                    format!(" -> {}", layout().full_type())
                });
            writeln!(out, "  {}({}){result}", field.name(), arguments.join(", "))?;
        }
    }
    Ok(())
}

fn write_messages(
    out: &mut String,
    question: MessageShape,
    answer: MessageShape,
) -> std::fmt::Result {
    write!(out, "  -> ")?;
    write_message(out, question.0, question.1)?;
    write!(out, "  <- ")?;
    write_message(out, answer.0, answer.1)
}

fn write_message(out: &mut String, name: &str, fields: &[(&str, &str)]) -> std::fmt::Result {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, ty)| format!("{name}: {ty}"))
        .collect();
    writeln!(out, "{name} {{{}}}", fields.join(", "))
}
