//! A name server on a loopback port that says what it is told to, by UDP and by TCP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Answers until it is dropped.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Zone>,
    _serving: JoinSet<()>,
}

/// What is said of a name, to each question of a kind in turn; the last stays.
#[derive(Clone)]
pub(crate) enum Said {
    /// These records, with a lifetime of zero: addresses, or `= name` for an alias.
    Records(&'static [&'static str]),
    Code(ResponseCode),
    Nothing,
}

#[derive(Default)]
struct Zone {
    told: Mutex<HashMap<Name, Vec<Said>>>,
    asked: Mutex<Vec<(Name, RecordType)>>,
}

/// As much as a message by UDP may hold here, so that longer ones are asked for by TCP.
const LONGEST_DATAGRAM: usize = 512;

impl NameServer {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        Self::on(udp, tcp)
    }

    /// On an address and port that nobody else may have.
    pub(crate) async fn start_at(address: &str) -> Self {
        let tcp = TcpListener::bind(address).await.unwrap();
        Self::on(UdpSocket::bind(address).await.unwrap(), tcp)
    }

    fn on(udp: UdpSocket, tcp: TcpListener) -> Self {
        let address = tcp.local_addr().unwrap();
        let zone = Arc::new(Zone::default());
        let mut serving = JoinSet::new();
        serving.spawn(by_udp(udp, Arc::clone(&zone)));
        serving.spawn(by_tcp(tcp, Arc::clone(&zone)));
        Self { address, zone, _serving: serving }
    }

    pub(crate) fn tell(&self, name: &str, said: impl Into<Vec<Said>>) {
        self.zone.told.lock().unwrap().insert(complete(name), said.into());
    }

    /// How often it was asked for a name, of either kind.
    pub(crate) fn asked_for(&self, name: &str) -> usize {
        let asked = self.zone.asked.lock().unwrap();
        asked.iter().filter(|(it, _)| *it == complete(name)).count()
    }
}

/// Both on one port, which another process may have taken in between.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("there is no port that is free for both");
}

async fn by_udp(socket: UdpSocket, zone: Arc<Zone>) {
    let mut buffer = [0; 4_096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let Some(mut answer) = zone.answer(&buffer[..length]) else { continue };
        if answer.to_vec().unwrap().len() > LONGEST_DATAGRAM {
            answer = answer.truncate();
        }
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}

async fn by_tcp(listener: TcpListener, zone: Arc<Zone>) {
    let mut talking = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let zone = Arc::clone(&zone);
        // However it ends: the resolver hangs up as it likes.
        talking.spawn(async move { drop(talk(stream, &zone).await) });
    }
}

async fn talk(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await?;
        let Some(answer) = zone.answer(&question) else { continue };
        let answer = answer.to_vec().unwrap();
        stream.write_u16(answer.len().try_into().unwrap()).await?;
        stream.write_all(&answer).await?;
    }
}

impl Zone {
    fn answer(&self, question: &[u8]) -> Option<Message> {
        let question = Message::from_vec(question).unwrap();
        let [query] = question.queries.as_slice() else { panic!("{question:?}") };
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let before = {
            let mut asked = self.asked.lock().unwrap();
            let this = (query.name().clone(), query.query_type());
            let before = asked.iter().filter(|it| **it == this).count();
            asked.push(this);
            before
        };
        match self.records(query.name(), query.query_type(), before) {
            Some(Ok(records)) => {
                answer.add_answers(records);
            }
            Some(Err(code)) => answer.metadata.response_code = code,
            None => return None,
        }
        Some(answer)
    }

    /// With those of whatever the name is an alias of; `None` for silence.
    fn records(
        &self,
        name: &Name,
        kind: RecordType,
        before: usize,
    ) -> Option<Result<Vec<Record>, ResponseCode>> {
        let told = self.told.lock().unwrap();
        let (mut records, mut name) = (Vec::new(), name.clone());
        loop {
            let Some(said) = told.get(&name) else {
                let is_alias = !records.is_empty();
                return Some(if is_alias { Ok(records) } else { Err(ResponseCode::NXDomain) });
            };
            let texts = match &said[before.min(said.len() - 1)] {
                Said::Records(texts) => *texts,
                Said::Code(code) => return Some(Err(*code)),
                Said::Nothing => return None,
            };
            let mut alias = None;
            for text in texts {
                if let Some(target) = text.strip_prefix("= ") {
                    let target = complete(target);
                    let data = RData::CNAME(CNAME(target.clone()));
                    records.push(Record::from_rdata(name.clone(), 0, data));
                    alias = Some(target);
                    continue;
                }
                let data = match text.parse().unwrap() {
                    IpAddr::V4(address) => RData::A(A(address)),
                    IpAddr::V6(address) => RData::AAAA(AAAA(address)),
                };
                if data.record_type() == kind {
                    records.push(Record::from_rdata(name.clone(), 0, data));
                }
            }
            match alias {
                Some(target) => name = target,
                None => return Some(Ok(records)),
            }
        }
    }
}

fn complete(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}
