//! The host's tensors as plugins see them: boxed, counted, behind opaque pointers.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use plugin_api::abi::{RawDevice, RawTensor};

/// Handles that exist right now, in plugins and in messages under way.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// How many tensor handles exist in this process: the same before and after whatever leaks none.
pub fn live_handles() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// A new handle, one strong reference, to a tensor.
pub(super) fn new_handle(tensor: Tensor) -> RawTensor {
    LIVE.fetch_add(1, Ordering::Relaxed);
    RawTensor(
        Box::into_raw(Box::new(tensor))
            .cast::<c_void>()
            .cast_const(),
    )
}

/// The tensor behind a handle.
///
/// # Safety
/// `handle` came from [`new_handle`] and is not dropped while the borrow lasts.
pub(super) unsafe fn peek<'a>(handle: RawTensor) -> &'a Tensor {
    // SAFETY: by the contract, the pointer is a live `Box<Tensor>`'s, and no `&mut` to it is ever made.
    unsafe { &*handle.0.cast::<Tensor>() }
}

/// Gives a handle back.
///
/// # Safety
/// `handle` came from [`new_handle`] and is not used again.
pub(super) unsafe fn drop_handle(handle: RawTensor) {
    // SAFETY: by the contract, this is the box's only owner.
    drop(unsafe { Box::from_raw(handle.0.cast::<Tensor>().cast_mut()) });
    LIVE.fetch_sub(1, Ordering::Relaxed);
}

/// Every device that was ever handed to a plugin. Few, and never dropped: a plugin may keep the pointer.
static DEVICES: Mutex<Vec<&'static Device>> = Mutex::new(Vec::new());

/// The handle of a device, valid for the whole process.
pub(super) fn device_handle(device: &Device) -> RawDevice {
    let mut devices = DEVICES
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = devices
        .iter()
        .copied()
        .find(|known| known.same_device(device));
    let device: &'static Device = known.unwrap_or_else(|| {
        let leaked = Box::leak(Box::new(device.clone()));
        devices.push(leaked);
        leaked
    });
    RawDevice(std::ptr::from_ref(device).cast())
}

/// The device behind a handle; `None` for [`RawDevice::OF_INPUT`].
///
/// # Safety
/// `handle` is `OF_INPUT` or came from [`device_handle`].
pub(super) unsafe fn device(handle: RawDevice) -> Option<&'static Device> {
    // SAFETY: by the contract the pointer is null or a leaked `Device`'s.
    unsafe { handle.0.cast::<Device>().as_ref() }
}

/// The boundary's name for an element type; 0 for one it has no name for.
pub(super) fn dtype_to_abi(dtype: DType) -> plugin_api::DType {
    match dtype {
        DType::U8 => plugin_api::DType::U8,
        DType::U32 => plugin_api::DType::U32,
        DType::I64 => plugin_api::DType::I64,
        DType::BF16 => plugin_api::DType::BF16,
        DType::F16 => plugin_api::DType::F16,
        DType::F32 => plugin_api::DType::F32,
        DType::F64 => plugin_api::DType::F64,
        _ => plugin_api::DType(0),
    }
}

/// The element type of a boundary's name, if the host has it.
pub(super) fn dtype_from_abi(dtype: plugin_api::DType) -> Option<DType> {
    Some(match dtype {
        plugin_api::DType::U8 => DType::U8,
        plugin_api::DType::U32 => DType::U32,
        plugin_api::DType::I64 => DType::I64,
        plugin_api::DType::BF16 => DType::BF16,
        plugin_api::DType::F16 => DType::F16,
        plugin_api::DType::F32 => DType::F32,
        plugin_api::DType::F64 => DType::F64,
        _ => return None,
    })
}
