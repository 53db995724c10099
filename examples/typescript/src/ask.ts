// Ask about a image: npm start -- 127.0.0.1:8330 photo.jpg "What is this?"
//
// A stream that breaks off goes on where it was: Attach, with the number of tokens that have arrived.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type ClientReadableStream, credentials, type ServiceError, status } from "@grpc/grpc-js";
import {
  AttachRequest,
  type AttachResponse,
  GenerateRequest,
  type GenerateResponse,
  InferenceServiceClient,
  Role,
} from "./gen/glm4v/v1/inference.js";

const DEADLINE_MS = 600_000;
const RETRY_MS = 10_000;

class Answer {
  tokens = 0;
  isAccepted = false;
  isFinished = false;

  async read(events: ClientReadableStream<GenerateResponse | AttachResponse>): Promise<void> {
    for await (const { event } of events as AsyncIterable<GenerateResponse>) {
      this.isAccepted ||= event?.accepted !== undefined;
      this.tokens += event?.delta?.tokenIds.length ?? 0;
      process.stdout.write(event?.delta?.text ?? event?.finished?.text ?? "");
      this.isFinished ||= event?.finished !== undefined;
    }
  }
}

/** Whether a gateway has decided. It marks its statuses; all others come from a broken connection. */
function isFinal(error: ServiceError): boolean {
  if (error.code === status.DEADLINE_EXCEEDED) return true;
  return error.code !== status.UNAVAILABLE && error.metadata?.get("glm4v-status").length > 0;
}

async function ask(target: string, path: string, text: string): Promise<void> {
  const client = new InferenceServiceClient(target, credentials.createInsecure(), {
    "grpc.max_send_message_length": 64 * 2 ** 20,
    "grpc.keepalive_time_ms": 10_000, // finds a frozen gateway
    "grpc.keepalive_timeout_ms": 5_000,
  });
  const request = GenerateRequest.fromPartial({
    requestId: randomUUID(), // the same request again attaches instead of running twice
    messages: [{ role: Role.ROLE_USER, parts: [{ image: { data: readFileSync(path) } }, { text }] }],
    sampling: { temperature: 0 },
  });
  const options = { deadline: Date.now() + DEADLINE_MS };
  const answer = new Answer();
  let giveUpAt = Date.now() + RETRY_MS;
  while (!answer.isFinished) {
    const before = answer.tokens;
    try {
      await answer.read(
        answer.isAccepted
          ? client.attach(
              AttachRequest.fromPartial({ requestId: request.requestId, tokenOffsets: [before] }),
              options,
            )
          : client.generate(request, options),
      );
    } catch (error) {
      if (answer.tokens > before) giveUpAt = Date.now() + RETRY_MS;
      if (isFinal(error as ServiceError) || Date.now() > giveUpAt) throw error;
      await sleep(200 * (1 + Math.random()));
    }
  }
  process.stdout.write("\n");
  client.close();
}

const [target, path, text] = process.argv.slice(2);
if (!target || !path || !text) {
  console.error("usage: npm start -- HOST:PORT IMAGE QUESTION");
  process.exit(2);
}
await ask(target, path, text).catch((error: ServiceError) => {
  console.error(error.details || error.message);
  process.exit(1);
});
