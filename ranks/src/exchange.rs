//! [`exchange`]: what nodes send one another at once, over sockets or by MPI. The seam between the two.

use std::{io, sync::Arc, time::Duration};

pub(crate) use crate::sockets::Transfer;
use crate::{
    mpi::{Mpi, Parcel},
    sockets,
};

/// What carries the numbers of a step.
pub(crate) enum Transport {
    /// The connections to the other nodes, which are there anyway.
    Sockets,
    /// The MPI of the launcher, and with it the fabrics that it knows.
    Mpi(Arc<Mpi>),
}

/// Send `out` to all who are told, and fill all that come, with at most `limit` in which nothing moves. `is_over` says that
/// a node is lost: whoever waits then waits no longer.
///
/// After an error nothing can be exchanged any more, and `out` and what was to come may be empty.
///
/// # Errors
/// The place of the transfer that failed, and why.
pub(crate) fn exchange(
    transport: &Transport,
    out: &mut Vec<u8>,
    transfers: &mut [Transfer<'_>],
    limit: Duration,
    is_over: &dyn Fn() -> bool,
) -> Result<(), (usize, io::Error)> {
    match transport {
        Transport::Sockets => sockets::exchange(out, transfers, limit),
        Transport::Mpi(mpi) => {
            let parcels = transfers.iter_mut().map(|Transfer { node, is_told, into, .. }| Parcel {
                process: *node,
                is_told: *is_told,
                into,
            });
            mpi.exchange(out, &mut parcels.collect::<Vec<_>>(), limit, is_over)?;
            transfers.iter().enumerate().try_for_each(|(at, transfer)| match transfer.expected {
                Some(expected) => expected.check(transfer.into).map_err(|error| (at, error)),
                None => Ok(()),
            })
        }
    }
}
