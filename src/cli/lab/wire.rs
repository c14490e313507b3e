//! The calls of the kernel's trait as JSON, one object a line: docs/LAB.md has the protocol.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use saltecho::lab::{Exercise, LabKernel, Rules, error_name};
use saltecho::python::Monotonic;
use saltecho::reactor::{Close, Kernel, Ready, Token};
use serde_json::{Map, Value, json};

use super::program::{Program, quote};

/// The version of the protocol.
const PROTOCOL: u32 = 1;

/// The number and the token of the listener. Streams have the numbers behind it.
const LISTENER: u64 = 1;

type Stream = <LabKernel as Kernel>::Stream;

/// A conversation with one program.
struct Session<'a> {
    kernel: &'a mut LabKernel,
    /// The streams by the numbers that the program knows. A number that is free is used again, as the
    /// kernel does with descriptors.
    streams: BTreeMap<u64, Stream>,
}

/// The answer to a call: what it returned, or the kernel's error.
type Answer = io::Result<Value>;

/// Makes the calls that a program asks for, until one of them ends the run.
///
/// # Errors
/// If the program does not keep to the protocol: the fault and the remedy.
pub(super) fn drive(
    kernel: &mut LabKernel,
    exercise: &Exercise,
    program: &mut Program,
) -> Result<(), String> {
    let listening = kernel.register_listener(&mut (), Token::listener(0));
    listening.map_err(|error| format!("the listener: {error}"))?;
    let rules = *kernel.rules();
    program.send(&json!({"id": 0, "init": init(exercise, &rules)}), "init")?;
    let ready = program.next()?;
    if ready.get("id") != Some(&json!(0)) || ready.get("ok").is_none() {
        let line = quote(&ready.to_string());
        return Err(format!("the answer to init is {{\"id\":0,\"ok\":{{}}}}, not {line}"));
    }
    let mut session = Session { kernel, streams: BTreeMap::new() };
    for id in 1.. {
        program.open_id = id;
        let line = program.next()?;
        let (name, call) = parse(&line, id)?;
        let result = session.perform(name, call);
        let answer = result.map_err(|fault| format!("{fault}: {}", quote(&line.to_string())))?;
        let message = match answer {
            Ok(value) => json!({"id": id, "ok": value}),
            Err(error) => json!({"id": id, "error": error_name(&error)}),
        };
        program.send(&message, &format!("call {id}, {name}"))?;
    }
    unreachable!("a call ends the run")
}

fn init(exercise: &Exercise, rules: &Rules) -> Value {
    let mut init = json!({
        "protocol": PROTOCOL,
        "exercise": exercise.to_string(),
        "listener": LISTENER,
        "recv_max": rules.recv_max,
    });
    let limits = [
        ("message", rules.message),
        ("max_held", rules.max_held),
        ("share", rules.share),
        ("idle_ms", rules.idle.map(|idle| idle.as_secs() * 1000)),
        ("quota", rules.quota),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit {
            init[name] = limit.into();
        }
    }
    init
}

/// The name of a call, and its arguments.
fn parse(line: &Value, expected: u64) -> Result<(&str, &Map<String, Value>), String> {
    let shown = || quote(&line.to_string());
    let call = line.as_object().ok_or_else(|| format!("a call is an object, not {}", shown()))?;
    match call.get("id").and_then(Value::as_u64) {
        Some(id) if id == expected => {}
        _ => return Err(format!("the id of this call is to be {expected}: {}", shown())),
    }
    let name = call.get("call").and_then(Value::as_str);
    Ok((name.ok_or_else(|| format!("the call has no name, \"call\":\"poll\": {}", shown()))?, call))
}

/// An argument that is a whole number.
fn number(call: &Map<String, Value>, name: &str) -> Result<u64, String> {
    let value = call.get(name).ok_or_else(|| format!("{name} is missing"))?;
    value.as_u64().ok_or_else(|| format!("{name} is a whole number, not {value}"))
}

impl Session<'_> {
    /// Makes a call.
    ///
    /// # Errors
    /// A fault in its arguments, which the kernel does not get.
    fn perform(&mut self, name: &str, call: &Map<String, Value>) -> Result<Answer, String> {
        match name {
            "poll" => self.poll(call),
            "now" => {
                let now = self.kernel.now();
                Ok(Ok(json!({"now_ms": millis(now)})))
            }
            "accept" => {
                listener(call)?;
                Ok(self.accept())
            }
            "shed" => {
                listener(call)?;
                Ok(self.kernel.shed(&mut ()).map(|()| json!({})))
            }
            "register" => {
                let token = token(number(call, "token")?)?;
                let stream = stream(&mut self.streams, call)?;
                Ok(self.kernel.register(stream, token).map(|()| json!({})))
            }
            "recv" => self.recv(call),
            "send" => self.send(call),
            "shutdown" => {
                let stream = stream(&mut self.streams, call)?;
                Ok(self.kernel.shutdown(stream).map(|()| json!({})))
            }
            "close" => {
                let number = number(call, "stream")?;
                let stream = self.streams.remove(&number).ok_or_else(|| unknown(number))?;
                let reset = call.get("reset") == Some(&json!(true));
                self.kernel.close(stream, if reset { Close::Reset } else { Close::Orderly });
                Ok(Ok(json!({})))
            }
            other => Err(format!(
                "{other:?} is no call; there are poll, now, accept, shed, register, recv, send, shutdown \
                 and close"
            )),
        }
    }

    fn poll(&mut self, call: &Map<String, Value>) -> Result<Answer, String> {
        let timeout = match call.get("timeout_ms") {
            Some(Value::Null) => None,
            Some(value) => {
                let timeout = value.as_f64().map(|millis| millis / 1e3);
                let timeout = timeout.and_then(|secs| Duration::try_from_secs_f64(secs).ok());
                Some(timeout.ok_or("timeout_ms is a number from 0 up, or null for none")?)
            }
            None => return Err("timeout_ms is missing; null is no timeout".to_owned()),
        };
        let mut events = Vec::new();
        let polled = self.kernel.poll(timeout, |token, ready| {
            let number = if token == Token::listener(0) { LISTENER } else { token.as_raw() as u64 };
            events.push(json!({
                "token": number,
                "readable": ready.has(Ready::READABLE),
                "writable": ready.has(Ready::WRITABLE),
                "closed": ready.has(Ready::CLOSED),
            }));
        });
        let now = self.kernel.now();
        Ok(polled.map(|()| json!({"events": events, "now_ms": millis(now)})))
    }

    fn accept(&mut self) -> Answer {
        let (stream, _) = self.kernel.accept(&mut ())?;
        let peer = format!("c{}", stream.client().number() + 1);
        let mut numbers = LISTENER + 1..;
        let number = numbers.find(|number| !self.streams.contains_key(number));
        let number = number.expect("a number is free");
        self.streams.insert(number, stream);
        Ok(json!({"stream": number, "peer": peer}))
    }

    fn recv(&mut self, call: &Map<String, Value>) -> Result<Answer, String> {
        let max = number(call, "max")?;
        // A longer buffer than any is one too long all the same.
        let max = usize::try_from(max.min(1 << 20)).map_err(|error| error.to_string())?;
        let stream = stream(&mut self.streams, call)?;
        if max == 0 {
            return Err("max is at least 1".to_owned());
        }
        let mut buffer = vec![0; max];
        let received = self.kernel.recv(stream, &mut buffer);
        Ok(received.map(|n| json!({"data": HEXLOWER.encode(&buffer[..n])})))
    }

    fn send(&mut self, call: &Map<String, Value>) -> Result<Answer, String> {
        let data = call.get("data").and_then(Value::as_str);
        let data = data.ok_or("data is missing: the bytes in hexadecimal")?;
        let data = HEXLOWER_PERMISSIVE.decode(data.as_bytes());
        let data = data.map_err(|error| format!("data is not hexadecimal, {error}"))?;
        let stream = stream(&mut self.streams, call)?;
        Ok(self.kernel.send(stream, &data).map(|n| json!({"sent": n})))
    }
}

fn stream<'a>(
    streams: &'a mut BTreeMap<u64, Stream>,
    call: &Map<String, Value>,
) -> Result<&'a mut Stream, String> {
    let number = number(call, "stream")?;
    streams.get_mut(&number).ok_or_else(|| unknown(number))
}

fn unknown(number: u64) -> String {
    format!("there is no stream {number}: it was closed, or never accepted")
}

fn listener(call: &Map<String, Value>) -> Result<(), String> {
    match number(call, "listener")? {
        LISTENER => Ok(()),
        other => Err(format!("the listener is {LISTENER}, not {other}")),
    }
}

fn token(number: u64) -> Result<Token, String> {
    match u32::try_from(number) {
        Ok(number) if u64::from(number) != LISTENER => Ok(Token::from_raw(number as usize)),
        Ok(_) => Err(format!("token {LISTENER} is the listener's")),
        Err(_) => Err("a token is below 2^32".to_owned()),
    }
}

/// Milliseconds with the nanoseconds as decimals.
#[allow(clippy::cast_precision_loss)] // A run takes minutes at most.
fn millis(time: Monotonic) -> f64 {
    time.as_nanos() as f64 / 1e6
}
