{{/* What a schema cannot say; each message names the value to change. */}}
{{- define "glm4v.checks" -}}
{{- include "glm4v.checkModel" . -}}
{{- include "glm4v.checkRedis" . -}}
{{- include "glm4v.checkScaling" . -}}
{{- include "glm4v.checkExposure" . -}}
{{- if (mod (int .Values.language.tensorParallel) (int .Values.language.hosts)) -}}
{{- fail (printf "language.tensorParallel (%d) must be a multiple of language.hosts (%d)" (int .Values.language.tensorParallel) (int .Values.language.hosts)) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.enabled needs gatewayApi.parentRefs, the Gateway to attach to" -}}
{{- end -}}
{{- if and .Values.gateway.tls.requireClientCertificate (not .Values.gateway.tls.existingSecret) -}}
{{- fail "gateway.tls.requireClientCertificate needs gateway.tls.existingSecret, with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- end -}}

{{- define "glm4v.checkModel" -}}
{{- $model := .Values.model -}}
{{- range $volume := list "persistentVolumeClaim" "hostPath" "image" -}}
{{- if and (eq $model.volume $volume) (not (index $model $volume)) -}}
{{- fail (printf "model.volume=%s needs model.%s" $volume $volume) -}}
{{- end -}}
{{- if and (ne $model.volume $volume) (index $model $volume) -}}
{{- fail (printf "model.%s is set, but model.volume is %s" $volume $model.volume) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $model.volume "image") (semverCompare "<1.31.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "model.volume=image needs Kubernetes 1.31 or newer, this is %s; use a persistentVolumeClaim" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and $model.checksumHostPath (not $model.sha256) -}}
{{- fail "model.checksumHostPath needs model.sha256, which `glm4v verify DIR` prints" -}}
{{- end -}}
{{- end -}}

{{- define "glm4v.checkRedis" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "external" -}}
{{- if not $external.addresses -}}{{- fail "redis.mode=external needs redis.external.addresses, each HOST:PORT" -}}{{- end -}}
{{- if and (eq $external.kind "sentinel") (not $external.sentinelService) -}}{{- fail "redis.external.kind=sentinel needs redis.external.sentinelService, the name of the master" -}}{{- end -}}
{{- if and (eq $external.kind "sentinel") $external.tls -}}{{- fail "redis.external.tls: Sentinels are used without TLS only" -}}{{- end -}}
{{- if and $external.caSecret (not $external.tls) -}}{{- fail "redis.external.caSecret needs redis.external.tls=true" -}}{{- end -}}
{{- else if $external.addresses -}}
{{- fail "redis.external.addresses is set, but redis.mode is bundled" -}}
{{- end -}}
{{- if and .Values.redis.username (not .Values.redis.existingSecret) -}}{{- fail "redis.username needs redis.existingSecret, with its password" -}}{{- end -}}
{{- if and .Values.redis.username (eq .Values.redis.mode "bundled") -}}{{- fail "redis.username is for an external Redis; the bundled one has the user default" -}}{{- end -}}
{{- end -}}

{{- define "glm4v.checkScaling" -}}
{{- $scaling := .Values.vision.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail "vision.autoscaling.minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and (eq $scaling.mode "keda") (not .Values.model.fingerprint) -}}
{{- fail "vision.autoscaling.mode=keda needs model.fingerprint, which names the queue to watch: run `glm4v verify DIR` with the checkpoint" -}}
{{- end -}}
{{- if and (eq $scaling.mode "hpa") (lt (int $scaling.minReplicas) 1) -}}
{{- fail "vision.autoscaling.mode=hpa cannot scale to zero: set minReplicas to 1, or mode to keda" -}}
{{- end -}}
{{- end -}}

{{- define "glm4v.checkExposure" -}}
{{- $gateway := .Values.gateway -}}
{{- $reached := list -}}
{{- if ne $gateway.service.type "ClusterIP" -}}{{- $reached = append $reached (printf "gateway.service.type=%s" $gateway.service.type) -}}{{- end -}}
{{- if .Values.ingress.enabled -}}{{- $reached = append $reached "ingress.enabled" -}}{{- end -}}
{{- if .Values.gatewayApi.enabled -}}{{- $reached = append $reached "gatewayApi.enabled" -}}{{- end -}}
{{- if and $reached (not $gateway.apiKeys.existingSecret) (not $gateway.tls.requireClientCertificate) (not $gateway.allowAnonymous) -}}
{{- fail (printf "%s would let anybody use the gateway: set gateway.apiKeys.existingSecret (a Secret of files that `glm4v keys new` makes), gateway.tls.requireClientCertificate, or gateway.allowAnonymous if something else decides who may call" (first $reached)) -}}
{{- end -}}
{{- end -}}
