//! Who is subscribed to what, and the delivery of messages.

use crate::clients::Client;
use crate::mailbox::{Mailbox, Message};
use ashlar_engine::glob;
use ashlar_engine::reply::{Protocol, Reply};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The three kinds of subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SUBSCRIBE
    Channel = 0,
    /// PSUBSCRIBE
    Pattern = 1,
    /// SSUBSCRIBE
    Shard = 2,
}

impl Kind {
    /// The type of message that is delivered.
    fn message(self) -> &'static [u8] {
        match self {
            Kind::Channel => b"message",
            Kind::Pattern => b"pmessage",
            Kind::Shard => b"smessage",
        }
    }
}

type Subscribers = HashMap<Box<[u8]>, Vec<Arc<Client>>>;

/// The subscriptions of all connections.
#[derive(Debug, Default)]
pub struct PubSub {
    subscribers: [RwLock<Subscribers>; 3],
    patterns: AtomicUsize,
}

/// A message in both protocols, encoded when the first subscriber of each is met.
struct Encoded<'a> {
    parts: &'a [&'a [u8]],
    bytes: [Option<Bytes>; 2],
}

impl Encoded<'_> {
    fn get(&mut self, protocol: Protocol) -> Bytes {
        let parts = self.parts;
        let bytes = self.bytes[usize::from(protocol == Protocol::Resp3)].get_or_insert_with(|| {
            let mut out = Vec::new();
            let mut reply = Reply::new(&mut out, protocol);
            reply.push(parts.len());
            parts.iter().for_each(|part| reply.bulk(part));
            out.into()
        });
        bytes.clone()
    }
}

impl PubSub {
    /// Adds a subscription.
    pub fn subscribe(&self, kind: Kind, channel: &[u8], client: &Arc<Client>) {
        let mut subscribers = self.subscribers[kind as usize].write();
        subscribers.entry(channel.into()).or_default().push(client.clone());
        if kind == Kind::Pattern {
            self.patterns.store(subscribers.len(), Ordering::Release);
        }
    }

    /// Removes a subscription.
    pub fn unsubscribe(&self, kind: Kind, channel: &[u8], client: &Arc<Client>) {
        let mut subscribers = self.subscribers[kind as usize].write();
        if let Some(clients) = subscribers.get_mut(channel) {
            clients.retain(|other| !Arc::ptr_eq(other, client));
            if clients.is_empty() {
                subscribers.remove(channel);
            }
        }
        if kind == Kind::Pattern {
            self.patterns.store(subscribers.len(), Ordering::Release);
        }
    }

    /// Delivers a message to who is subscribed to the channel, and to patterns that match it
    /// unless it is a shard channel. Returns the number of deliveries.
    pub fn publish(
        &self,
        kind: Kind,
        channel: &[u8],
        payload: &[u8],
        mailboxes: &[Mailbox],
    ) -> usize {
        let mut delivered = 0;
        let parts = [kind.message(), channel, payload];
        let mut message = Encoded { parts: &parts, bytes: [None, None] };
        let subscribers = self.subscribers[kind as usize].read();
        for client in subscribers.get(channel).into_iter().flatten() {
            let bytes = message.get(client.protocol());
            mailboxes[client.address.worker].post(Message::Send(client.address, bytes));
            delivered += 1;
        }
        drop(subscribers);
        if kind == Kind::Channel && self.patterns.load(Ordering::Acquire) != 0 {
            delivered += self.publish_to_patterns(channel, payload, mailboxes);
        }
        delivered
    }

    fn publish_to_patterns(&self, channel: &[u8], payload: &[u8], mailboxes: &[Mailbox]) -> usize {
        let mut delivered = 0;
        for (pattern, clients) in self.subscribers[Kind::Pattern as usize].read().iter() {
            if !glob::matches(pattern, channel) {
                continue;
            }
            let parts = [Kind::Pattern.message(), pattern, channel, payload];
            let mut message = Encoded { parts: &parts, bytes: [None, None] };
            for client in clients {
                let bytes = message.get(client.protocol());
                mailboxes[client.address.worker].post(Message::Send(client.address, bytes));
                delivered += 1;
            }
        }
        delivered
    }

    /// Whether a message could reach anyone.
    pub fn is_listened(&self) -> bool {
        self.patterns.load(Ordering::Acquire) != 0
            || !self.subscribers[Kind::Channel as usize].read().is_empty()
    }

    /// Visits all subscriptions: whether it is a pattern, the channel or pattern, and the client.
    pub fn for_each(&self, mut each: impl FnMut(bool, &[u8], &Client)) {
        for (kind, subscribers) in self.subscribers.iter().enumerate() {
            for (channel, clients) in subscribers.read().iter() {
                for client in clients {
                    each(kind == Kind::Pattern as usize, channel, client);
                }
            }
        }
    }

    /// Channels with at least one subscriber.
    pub fn channels(&self, kind: Kind) -> Vec<Box<[u8]>> {
        self.subscribers[kind as usize].read().keys().cloned().collect()
    }

    /// Subscribers of a channel.
    pub fn subscribers(&self, kind: Kind, channel: &[u8]) -> usize {
        self.subscribers[kind as usize].read().get(channel).map_or(0, Vec::len)
    }

    /// Number of distinct patterns.
    pub fn patterns(&self) -> usize {
        self.patterns.load(Ordering::Acquire)
    }
}
