//! Requests that wait for others of the same queue, and places that are told where one landed.
//!
//! Both are rare, and travel behind one pointer in their requests, so that the others pay nothing
//! but a look at it. A chain is ours, not the kernel's: its next request goes through the zone
//! rules when the one before it has succeeded, and so leaves no hole among others' records.

use super::Queue;
use super::request::{Completion, Extra, Flags, Request};
use std::collections::VecDeque;
use zonal_core::error::{Error, ErrorKind, Result};

/// The chains of a queue.
#[derive(Default)]
pub(super) struct Chains {
    chains: Vec<Chain>,
    next_id: u64,
    /// The last request pushed is linked to the one that comes.
    open: bool,
    /// How many requests wait for others.
    waiting: usize,
}

/// One chain: a request under way, and those that wait for it.
struct Chain {
    id: u64,
    /// How the one under way has ended; none yet.
    ended: Option<bool>,
    rest: VecDeque<Request>,
    /// Whether its last request is linked to one that is still to be pushed.
    open: bool,
}

impl Chains {
    /// How many requests wait for others.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Notes a request's links as it is pushed.
    #[inline]
    pub(super) fn note(&mut self, request: &mut Request) {
        if self.open {
            request.extra.get_or_insert_default().follows = true;
        }
        self.open = request.extra.as_ref().is_some_and(|extra| extra.linked);
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.waiting = 0;
    }

    /// How the request under way in a chain has ended.
    pub(super) fn ended(&mut self, id: u64, well: bool) {
        if let Some(chain) = self.chains.iter_mut().find(|chain| chain.id == id) {
            chain.ended = Some(well);
        }
    }

    /// A request that can start or is to be cancelled, and its chain.
    fn ready(&mut self) -> Option<(Request, u64, bool)> {
        self.chains.retain(|chain| chain.open || chain.ended.is_none() || !chain.rest.is_empty());
        let chain = self.chains.iter_mut().find(|c| c.ended.is_some() && !c.rest.is_empty())?;
        let request = chain.rest.pop_front()?;
        self.waiting -= 1;
        let well = chain.ended == Some(true);
        if well {
            chain.ended = None;
        }
        Some((request, chain.id, well))
    }
}

impl Queue {
    /// Starts a request with something extra, or lets it wait in its chain.
    #[cold]
    pub(super) fn start_extra(&mut self, mut request: Request, extra: Extra) {
        let Extra { linked, follows, .. } = extra;
        request.extra = Some(Box::new(extra));
        let chains = &mut self.chains;
        if follows && let Some(chain) = chains.chains.last_mut() {
            chain.open = linked;
            chain.rest.push_back(request);
            chains.waiting += 1;
            return;
        }
        if !linked {
            return self.start_in_chain(request, None);
        }
        chains.next_id += 1;
        let id = chains.next_id;
        chains.chains.push(Chain { id, ended: None, rest: VecDeque::new(), open: true });
        self.start_in_chain(request, Some(id));
    }

    fn start_in_chain(&mut self, mut request: Request, chain: Option<u64>) {
        if let Some(extra) = &mut request.extra {
            extra.chain = chain;
            if extra.report_to.is_some() && request.buffer().is_none() {
                let text = "it moves no bytes, so there is no place to report";
                let error = Error::new(ErrorKind::Unsupported, text);
                return self.end_unsent(request, error);
            }
        }
        self.start(request);
    }

    /// Goes on with chains whose requests have ended. Whether there was anything to do.
    #[cold]
    pub(super) fn advance_chains(&mut self) -> bool {
        let mut any = false;
        while let Some((request, chain, well)) = self.chains.ready() {
            any = true;
            if well {
                self.start_in_chain(request, Some(chain));
            } else {
                let text = "a request that it was linked to has failed";
                self.end_unsent(request, Error::new(ErrorKind::Cancelled, text));
            }
        }
        any
    }

    /// Completes a request that was never sent.
    fn end_unsent(&mut self, request: Request, error: Error) {
        let geometry = &self.drive.zones.geometry;
        let offset = request.offset(geometry);
        let error = error.during(request.name()).on(&*self.drive.name);
        let chain = request.extra.as_ref().and_then(|extra| extra.chain);
        let (tag, mut flags) = (request.tag, Flags::default());
        flags.insert(Flags::REFUSED);
        let buffer = request.into_buffer();
        self.completed.push_back(Completion { tag, result: Err(error), flags, offset, buffer });
        if let Some(chain) = chain {
            self.chains.ended(chain, false);
        }
    }

    /// What else there is to do at a request's end, before its completion can be seen.
    #[cold]
    pub(super) fn end_extra(&mut self, extra: &Extra, result: &Result<u32>, offset: u64) {
        if let (Some(place), Ok(_)) = (&extra.report_to, result) {
            place.store(offset);
        }
        if let Some(chain) = extra.chain {
            self.chains.ended(chain, result.is_ok());
        }
    }
}
