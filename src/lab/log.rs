/// The steps of a run as a verdict shows them, if they are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    steps: Option<Vec<Step>>,
    /// Steps so far, wanted or not.
    count: usize,
}

/// One step of a run: a call of the loop with its answer, or an act of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The call and its answer, or the act.
    pub text: String,
    /// True for a call of the loop.
    pub is_call: bool,
    /// What the kernel knows and the loop does not, as far as it matters to the verdict.
    pub note: String,
}

impl Log {
    pub(super) fn keep(&mut self) {
        self.steps = Some(Vec::new());
    }

    /// The number of the last step.
    pub(super) const fn last(&self) -> usize {
        self.count.saturating_sub(1)
    }

    pub(super) fn take(&mut self) -> Vec<Step> {
        self.steps.take().unwrap_or_default()
    }

    pub(super) fn act(&mut self, text: impl FnOnce() -> String) {
        self.push(text, false);
    }

    pub(super) fn call(&mut self, text: impl FnOnce() -> String) {
        self.push(text, true);
    }

    fn push(&mut self, text: impl FnOnce() -> String, is_call: bool) {
        self.count += 1;
        if let Some(steps) = &mut self.steps {
            steps.push(Step { text: text(), is_call, note: String::new() });
        }
    }
}

/// "1 byte", "2 bytes".
pub(super) fn count(n: impl TryInto<u64>, what: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
