//! A browser that a test drives by the DevTools protocol: messages in JSON over two pipes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A running browser with one page.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// Events that came while something else was awaited.
    events: VecDeque<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts it. The protocol is spoken on descriptors 3 and 4, which the shell sets up.
    pub fn start(program: &Command) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(program.get_program())
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (session, events) = (None, VecDeque::new());
        let mut browser =
            Self { child, input, output, session, last_id: 0, events, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method and returns its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.receive();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push_back(answer);
        }
    }

    fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        let n = self.output.read_until(0, &mut message).unwrap();
        assert!(n > 0, "the browser has ended");
        message.pop();
        serde_json::from_slice(&message).unwrap()
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, method: &str) -> Value {
        loop {
            if let Some(found) = self.events.iter().position(|event| event["method"] == method) {
                return self.events.remove(found).unwrap();
            }
            let event = self.receive();
            self.events.push_back(event);
        }
    }

    /// Opens a page and waits until it is there.
    pub fn open(&mut self, url: &str) {
        // Else a change of the fragment would not load anything.
        for url in ["about:blank", url] {
            self.events.retain(|event| event["method"] != "Page.loadEventFired");
            self.call("Page.navigate", &json!({"url": url}));
            self.wait_for("Page.loadEventFired");
        }
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", &params);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {}",
            result["exceptionDetails"]
        );
        result["result"]["value"].clone()
    }

    /// Presses a key, with Shift or without.
    pub fn press(&mut self, key: &str, shift: bool) {
        for kind in ["keyDown", "keyUp"] {
            let mut params =
                json!({"type": kind, "key": key, "modifiers": if shift { 8 } else { 0 }});
            if kind == "keyDown" && key.len() == 1 {
                params["text"] = key.into();
            }
            self.call("Input.dispatchKeyEvent", &params);
        }
    }

    /// The addresses that were asked for so far, and complaints of the page: errors in its program and
    /// violations of its policy.
    pub fn account(&mut self) -> (Vec<String>, Vec<String>) {
        let of = |methods: [&str; 2], value: fn(&Value) -> String| {
            let events = self.events.iter();
            let mine =
                events.filter(|event| methods.iter().any(|method| event["method"] == *method));
            mine.map(|event| value(&event["params"])).collect()
        };
        let url = |params: &Value| params["request"]["url"].as_str().unwrap().to_owned();
        (
            of(["Network.requestWillBeSent", "Network.webSocketCreated"], url),
            of(["Runtime.exceptionThrown", "Log.entryAdded"], ToString::to_string),
        )
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.input.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.child.wait();
    }
}
