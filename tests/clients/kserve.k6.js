// k6 over gRPC: one whole answer and one stream in each iteration.
import grpc from "k6/net/grpc";
import { check } from "k6";

const client = new grpc.Client();
client.load([__ENV.PROTOS], "gateway/doors/kserve/grpc_service.proto");
const request = JSON.parse(__ENV.REQUEST);

export default async function () {
  client.connect(__ENV.TARGET, { plaintext: true });
  const answer = client.invoke("inference.GRPCInferenceService/ModelInfer", request);
  check(answer, { "whole answer": (it) => it.status === grpc.StatusOK && it.message.id === "7" });

  const last = await new Promise((resolve) => {
    const stream = new grpc.Stream(client, "inference.GRPCInferenceService/ModelStreamInfer");
    let final = false;
    stream.on("data", (reply) => {
      const marked = reply.inferResponse.parameters.triton_final_response;
      final = marked.boolParam === true;
      if (final) stream.end();
    });
    stream.on("error", () => resolve(false));
    stream.on("end", () => resolve(final));
    stream.write(request);
  });
  check(last, { "stream with its last piece": (it) => it });
  client.close();
}
