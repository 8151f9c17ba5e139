//! A plugin through its table, as a host calls it.

use std::sync::Arc;

use plugin_api::{
    Batch, Error, LayerInfo, LayerKind, Result, Tensor,
    abi::{Failure, HostHandle, Packet, PluginTableRef, RawInstance, Status},
    export::module,
    hooks::{BatchMessage, LayerIn, LayerSelect, LayerSelectIn, SavedState, StateLoad, StateSave},
    message::Message,
    services::{self, NoIn, SampleOut},
    slots::{self, CallDef},
    testing::TestHost,
};

use crate::example::Example;

/// An instance, dropped as a host drops it.
struct Loaded {
    table: PluginTableRef,
    instance: RawInstance,
}

// SAFETY: the table's functions may be called from any thread, one at a time; a second call at once is refused, which a test shows.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    fn new(settings: &str, host: &TestHost) -> Result<Self> {
        let table = module::<Example>().table();
        let (mut instance, mut failure) = (RawInstance::NULL, Failure::default());
        // SAFETY: every pointer is valid for the call.
        let status = unsafe {
            table.create()(
                settings.into(),
                host.handle(),
                &raw mut instance,
                &raw mut failure,
            )
        };
        if status == Status::OK {
            Ok(Loaded { table, instance })
        } else {
            Err(Error::from_failure(status, failure))
        }
    }

    fn raw(&self, slot: u32, method: u32, request: Packet, handle: &HostHandle) -> Result<Packet> {
        let mut request = std::mem::ManuallyDrop::new(request);
        let (mut reply, mut failure) = (Packet::new(), Failure::default());
        // SAFETY: every pointer is valid for the call, and the request is not dropped here.
        let status = unsafe {
            self.table.call()(
                self.instance,
                slot,
                method,
                handle,
                &raw mut *request,
                &raw mut reply,
                &raw mut failure,
            )
        };
        if status == Status::OK {
            Ok(reply)
        } else {
            Err(Error::from_failure(status, failure))
        }
    }

    fn call<C: CallDef>(&self, request: C::In, host: &TestHost) -> Result<C::Out> {
        C::Out::decode(self.raw(C::SLOT.code, C::METHOD, request.encode(), host.handle())?)
    }

    fn batch(&self, host: &TestHost) -> Result<Tensor> {
        let mut batch = Batch::new();
        batch.set(
            "images",
            Tensor::ones([2, 3, 4, 4], plugin_api::DType::F32, host)?,
        );
        let out = self.call::<slots::Batch>(BatchMessage { batch }, host)?;
        Ok(out.batch.images()?.clone())
    }

    fn close(self) -> Result<()> {
        let mut failure = Failure::default();
        // SAFETY: the instance is given back once.
        let status = unsafe { self.table.drop()(self.instance, &raw mut failure) };
        if status == Status::OK {
            Ok(())
        } else {
            Err(Error::from_failure(status, failure))
        }
    }
}

fn tricky(trick: &str, host: &TestHost) -> Loaded {
    Loaded::new(&format!(r#"{{ "batch": "{trick}" }}"#), host).unwrap()
}

#[test]
fn a_hook_answers_and_leaves_no_handles() {
    let host = TestHost::new();
    let plugin = tricky("double", &host);
    assert_eq!(
        plugin.batch(&host).unwrap().to_vec::<f32>().unwrap(),
        vec![2.0; 96]
    );
    assert_eq!(host.live_tensors(), 1, "what the plugin keeps");
    plugin.close().unwrap();
    assert_eq!(host.live_tensors(), 0);
}

#[test]
fn bad_settings_are_refused_with_their_names() {
    let host = TestHost::new();
    let error = Loaded::new(r#"{ "bach": "double" }"#, &host).err().unwrap();
    assert_eq!(error.status(), Status::SETTINGS);
    assert_eq!(
        error.to_string(),
        "unknown setting `bach`, did you mean `batch`?"
    );
}

#[test]
fn a_panic_becomes_an_error_with_its_place_and_ends_the_plugin() {
    let host = TestHost::new().at(7, plugin_api::Phase::TRAIN);
    let plugin = tricky("panic", &host);
    let Error::Panic { message, location } = plugin.batch(&host).unwrap_err() else {
        panic!("not a panic")
    };
    assert_eq!(message, "batch 7 went wrong");
    let (file, line) = location.rsplit_once(':').unwrap();
    assert!(
        file.ends_with("example.rs") && line.parse::<u32>().unwrap() > 1,
        "{location}"
    );
    let again = plugin.batch(&host).unwrap_err();
    assert!(again.to_string().contains("panicked earlier"), "{again}");
    plugin.close().unwrap();
    assert_eq!(host.live_tensors(), 0);
}

#[test]
fn a_drop_that_panics_is_reported() {
    let host = TestHost::new();
    let plugin = Loaded::new(r#"{ "bad_drop": true }"#, &host).unwrap();
    assert!(
        matches!(plugin.close(), Err(Error::Panic { message, .. }) if message == "a drop that fails")
    );
}

#[test]
fn errors_keep_their_sentence() {
    let host = TestHost::new();
    assert_eq!(
        tricky("fail", &host).batch(&host).unwrap_err().to_string(),
        "no such luck"
    );
    let error = tricky("unsupported", &host).batch(&host).unwrap_err();
    assert_eq!(error.status(), Status::UNSUPPORTED);
    assert_eq!(error.to_string(), "Unsupported: host has no gelu_erf/1");
}

#[test]
fn slots_not_taken_and_methods_not_known_are_unsupported() {
    let host = TestHost::new();
    let plugin = tricky("double", &host);
    for (slot, method) in [(4, 0), (999, 0), (3, 9), (8, 9), (17, 9)] {
        let error = plugin
            .raw(slot, method, Packet::new(), host.handle())
            .unwrap_err();
        assert_eq!(
            error.status(),
            Status::UNSUPPORTED,
            "{slot} {method}: {error}"
        );
    }
}

#[test]
fn a_message_without_its_fields_is_named() {
    let host = TestHost::new();
    let error = tricky("double", &host)
        .raw(8, 0, Packet::new(), host.handle())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "message field `LayerIn.layer`: expected a whole number that fits u32, got nothing"
    );
}

#[test]
fn a_call_during_a_call_is_refused() {
    let host = TestHost::new();
    let plugin = Arc::new(tricky("sample", &host));
    let (inner, handle) = (Arc::clone(&plugin), SendHandle(*host.handle()));
    host.answer::<services::Sample>(move |_| {
        let handle = &handle;
        let error = inner.raw(17, 0, NoIn {}.encode(), &handle.0).unwrap_err();
        Err::<SampleOut, _>(error)
    });
    assert_eq!(plugin.batch(&host).unwrap_err(), Error::Reentrant);
}

/// A handle that a closure may hold; the test keeps its host alive and stays on one thread.
struct SendHandle(HostHandle);
// SAFETY: used on the thread that made it.
unsafe impl Send for SendHandle {}
// SAFETY: as above.
unsafe impl Sync for SendHandle {}

#[test]
fn log_lines_reach_the_host_and_its_filter_holds() {
    let host = TestHost::new();
    tricky("log", &host).batch(&host).unwrap();
    assert_eq!(host.take_log(), ["3 mixing samples count=3"]);
}

#[test]
fn layers_are_chosen_once_and_described_at_each_call() {
    let host = TestHost::new();
    let plugin = tricky("double", &host);
    let layer = |id: u32, path: &str| LayerInfo {
        id,
        path: path.into(),
        kind: LayerKind::LINEAR,
        in_features: 10 + id as usize,
        out_features: 4,
        weight_shape: vec![4, 10],
        bias: true,
        conv: vec![],
    };
    let layers = vec![
        layer(0, "attn.to_q"),
        layer(1, "attn.to_k"),
        layer(5, "late.to_q"),
    ];
    let chosen = plugin
        .call::<LayerSelect>(LayerSelectIn { layers }, &host)
        .unwrap();
    assert_eq!(chosen.adapts, [true, false, true]);
    for (id, expected) in [(0, 10.0), (5, 15.0)] {
        let input = Tensor::zeros([1], plugin_api::DType::F32, &host).unwrap();
        let message = LayerIn {
            layer: id,
            input: input.clone(),
            output: input,
        };
        let out = plugin.call::<slots::Layer>(message, &host).unwrap();
        assert_eq!(out.tensor.to_vec::<f32>().unwrap(), [expected]);
    }
}

#[test]
fn state_is_saved_with_its_revision_and_bad_bytes_are_refused() {
    let host = TestHost::new();
    let plugin = tricky("double", &host);
    let load = |bytes: &[u8]| {
        plugin.call::<StateLoad>(
            SavedState {
                bytes: bytes.to_vec(),
                revision: 2,
            },
            &host,
        )
    };
    load(&[9, 1, 0, 0]).unwrap();
    let saved = plugin.call::<StateSave>(NoIn {}, &host).unwrap();
    assert_eq!(
        (saved.bytes.as_slice(), saved.revision),
        ([9u8, 1, 0, 0].as_slice(), 2)
    );
    assert_eq!(
        load(&[1]).unwrap_err().to_string(),
        "the state is not four bytes"
    );
}
