{{- define "glm4v.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a component: (list $ "gateway"). */}}
{{- define "glm4v.name" -}}
{{- printf "%s-%s" (include "glm4v.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{- define "glm4v.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 | quote }}
{{- end -}}

{{- define "glm4v.labels" -}}
{{- $root := index . 0 -}}
{{ include "glm4v.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The name in the gateway's certificate. */}}
{{- define "glm4v.serverName" -}}
{{- default (printf "%s.%s.svc" (include "glm4v.name" (list . "gateway")) .Release.Namespace) .Values.gateway.tls.serverName -}}
{{- end -}}

{{/* Whether `helm test` has what it needs to be let in. */}}
{{- define "glm4v.canTest" -}}
{{- $gateway := .Values.gateway -}}
{{- $hasKey := or (not $gateway.apiKeys.existingSecret) .Values.helmTest.apiKeySecret -}}
{{- $hasCertificate := or (not $gateway.tls.requireClientCertificate) .Values.helmTest.clientCertificateSecret -}}
{{- if and $hasKey $hasCertificate }}true{{ else }}false{{ end -}}
{{- end -}}

{{- define "glm4v.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "glm4v.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* (list $ image): REGISTRY/REPOSITORY:TAG or @DIGEST. */}}
{{- define "glm4v.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end -}}

{{/* A number or text as an environment variable has it: Helm reads numbers as floats, and prints 20971520 as 2.097152e+07. */}}
{{- define "glm4v.scalar" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}{{ . }}{{- end -}}
{{- end -}}
