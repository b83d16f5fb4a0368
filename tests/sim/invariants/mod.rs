//! What must hold whatever happens: one file an invariant.

pub mod election_safety;
pub mod replicas_equal;
pub mod slots_served_once;
pub mod state_machine_safety;

pub use election_safety::ElectionSafety;
pub use state_machine_safety::StateMachineSafety;
